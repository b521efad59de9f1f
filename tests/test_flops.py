"""The count of operations agrees with arithmetic and stays within what the released code costs."""

from __future__ import annotations

import pytest

from liveact_models.config import ConfigError, preset
from liveact_models.flops import FlopCount, count


@pytest.fixture(scope="module")
def released() -> FlopCount:
    return count("soulx-liveact-18b", 512, 512)


def test_released_size_costs_at_most_30_1_tflop_a_frame(released):
    assert 29.9 < released.transformer <= 30.1
    assert sum(released.parts.values()) == pytest.approx(released.transformer)


def test_audio_free_count_is_that_of_the_facts(released):
    # The released code counts 27.9, of which 0.3 is text and image keys recomputed; scores are 9.0.
    assert released.without_audio == pytest.approx(27.87, abs=0.02)
    assert released.parts["self-attention scores"] == pytest.approx(9.02, abs=0.01)


def test_parts_equal_arithmetic(released):
    model, tokens, keys, steps = preset("soulx-liveact-18b").transformer, 8 * 1024, 14 * 1024, 3
    layers = steps * model.num_layers / 32 / 1e12
    linear = 2 * tokens * model.dim**2
    assert released.parts["self-attention linears"] == pytest.approx(4 * linear * layers)
    assert released.parts["self-attention scores"] == pytest.approx(4 * tokens * keys * model.dim * layers)
    assert released.parts["cross-attention"] == pytest.approx(
        (2 * linear + 4 * tokens * (512 + 257) * model.dim) * layers
    )
    assert released.parts["ffn"] == pytest.approx(4 * tokens * model.dim * model.ffn_dim * layers)
    # Keys and values, two compressions a cache, each of 1024 tokens from 5.
    assert released.parts["ConvKV memory"] == pytest.approx(2 * 2 * 2 * 5 * 1024 * model.dim * layers)


def test_other_stages_are_counted(released):
    assert released.vae_decode == pytest.approx(2.22, abs=0.01)
    assert 0 < released.audio_encoder < 0.01
    assert released.total == pytest.approx(released.transformer + released.vae_decode + released.audio_encoder)


def test_a_size_the_preset_does_not_render_is_refused():
    with pytest.raises(ConfigError, match="multiples of 16"):
        count("tiny", 65, 64)


def test_tiny_preset_counts_in_a_moment():
    assert 0 < count("tiny", 64, 64).total < 0.01
