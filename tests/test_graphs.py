"""Steps recorded once and replayed on buffers that stay: the numbers of a plain run, whoever's session comes.

CUDA graphs need a GPU. Here the recording is a list of one thing to do again, which writes into the same results: what is tested
is that every input reaches its buffer, and that nothing is read of results that the next call overwrites.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from liveact_models.config import ConfigError, preset
from liveact_models.engine import Engine, choose
from liveact_models.graphs import GraphedForward, Prediction, Work, use_graphs
from liveact_services.config import DenoiserConfig
from test_pipeline import make_pipeline
from test_steps import audio, denoiser, opened, random

CONFIG = preset("tiny")


def recorded(work: Work) -> tuple[Prediction, Callable[[], None]]:
    """As a CUDA graph: results that stay where they are, and a replay that reads the buffers as they are then."""
    velocity, fresh = work()
    results = velocity.clone(), [(keys.clone(), values.clone()) for keys, values in fresh]

    def replay() -> None:
        velocity, fresh = work()
        results[0].copy_(velocity)
        for mine, theirs in zip(results[1], fresh, strict=True):
            for part, made in zip(mine, theirs, strict=True):
                part.copy_(made)

    return results, replay


@pytest.mark.parametrize(
    ("cache", "sampling"),
    [("exact", {}), ("fp8", {}), ("exact", {"audio_guidance": 2.0}), ("exact", {"memory": "none"})],
    ids=["exact", "fp8 memory", "guided", "no memory"],
)
def test_sessions_in_turn_are_made_by_the_same_recordings_as_without(cache: str, sampling: dict[str, object]) -> None:
    plain = denoiser(make_pipeline().denoiser.transformer, cache, **sampling)
    graphed = denoiser(make_pipeline().denoiser.transformer, cache, **sampling)
    use_graphs(graphed.transformer, recorded)
    theirs, ours = ([opened(one) for _ in range(2)] for one in (plain, graphed))
    for sessions, one in ((theirs, plain), (ours, graphed)):
        one.set_prompt(sessions[1], random(5, CONFIG.transformer.text_dim, seed=9), 1)
    for block in range(4):
        for number in range(2):
            heard = audio(block + 10 * number) if block else audio(0)
            if block == 2:
                for sessions, one in ((theirs, plain), (ours, graphed)):
                    one.set_prompt(sessions[number], random(6, CONFIG.transformer.text_dim, seed=20 + number), 2)
            expected = plain.denoise(theirs[number], block, heard)
            assert torch.equal(graphed.denoise(ours[number], block, heard), expected), (block, number)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.export() == other.export()
    forward = graphed.transformer.forward
    assert isinstance(forward, GraphedForward)
    # Block 0 and the later ones, three steps each: that with silence is the same recording as that with sound.
    assert forward.captured == 6


def test_a_size_that_is_not_used_any_more_gives_its_buffers_back() -> None:
    one = denoiser(make_pipeline().denoiser.transformer)
    use_graphs(one.transformer, recorded)
    model = CONFIG.transformer
    for side in (32, 48, 64, 80, 32):
        state = one.open(
            width=side, height=side, fps=20, seed=5, text=random(7, model.text_dim),
            clip=random(model.clip_tokens, model.clip_dim), reference=random(16, 14, side // 8, side // 8),
        )  # fmt: skip
        one.denoise(state, 0, audio(0))
    forward = one.transformer.forward
    assert isinstance(forward, GraphedForward)
    assert len(forward._buffers) == 4
    assert forward.captured == 12, "the first size came back before it was given up"


def test_what_cannot_be_recorded_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match="CUDA graphs need a CUDA device"):
        choose(Engine(graphs=True), CONFIG, torch.device("cpu"))
    for fields in ({"ranks": 2}, {"offload_blocks": 3}):
        with pytest.raises(ValueError, match="graphs with"):
            DenoiserConfig(graphs=True, **fields)  # type: ignore[arg-type]
    assert DenoiserConfig(graphs=True).engine.graphs
    assert dataclasses.replace(Engine(), graphs=True).graphs
