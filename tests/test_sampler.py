"""Sampling steps are the formulas of flow matching, and noise is a pure function of (seed, block, step)."""

from __future__ import annotations

import hashlib
import itertools

import pytest
import torch

from liveact_models.sampler import SAMPLERS, euler, renoise, seeded_noise

SHAPE = (16, 8, 4, 4)


def test_noise_does_not_depend_on_what_was_drawn_before():
    noise = seeded_noise(7)
    first = noise(3, 1, SHAPE)
    noise(0, 0, (5,))
    torch.manual_seed(0)
    assert torch.equal(noise(3, 1, SHAPE), first)
    assert torch.equal(seeded_noise(7)(3, 1, SHAPE), first)


def test_noise_differs_for_every_seed_block_and_step():
    draws = [
        seeded_noise(seed)(block, step, SHAPE).numpy().tobytes()
        for seed, block, step in itertools.product((0, 1, 2**64 - 1), (0, 1, 2250), (0, 1, 2))
    ]
    assert len(set(draws)) == len(draws)


def test_noise_of_neighbouring_blocks_and_steps_does_not_overlap():
    noise = seeded_noise(1)
    values = {float(value) for value in noise(0, 0, (4096,))}
    for block, step in ((0, 1), (1, 0), (1, 1)):
        shared = values & {float(value) for value in noise(block, step, (4096,))}
        assert len(shared) < 10


def test_noise_bytes_are_those_recorded():
    draw = seeded_noise(2024)(5, 2, (64,))
    assert draw.dtype == torch.float32
    assert hashlib.sha256(draw.numpy().tobytes()).hexdigest()[:16] == "3dad935baf79e410"


def test_noise_is_standard_normal():
    draw = seeded_noise(3)(0, 0, (200_000,))
    assert abs(float(draw.mean())) < 0.01
    assert abs(float(draw.std()) - 1.0) < 0.01


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match="accepted are"):
        seeded_noise(seed)


def test_renoise_mixes_the_clean_estimate_with_fresh_noise():
    x, velocity, fresh = torch.randn(3, *SHAPE)
    clean = x - velocity * 0.9375
    out = renoise(x, velocity, 937.5, 250.0, lambda: fresh)
    torch.testing.assert_close(out, 0.75 * clean + 0.25 * fresh)


def test_euler_goes_along_the_velocity():
    x, velocity = torch.randn(2, *SHAPE)
    torch.testing.assert_close(euler(x, velocity, 1000.0, 937.5, forbidden_noise), x - 0.0625 * velocity)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_last_step_ends_at_the_clean_estimate_without_noise(name):
    x, velocity = torch.randn(2, *SHAPE)
    out = SAMPLERS[name](x, velocity, 800.0, 0.0, forbidden_noise)
    torch.testing.assert_close(out, x - 0.8 * velocity)


def forbidden_noise() -> torch.Tensor:
    raise AssertionError("noise was drawn")
