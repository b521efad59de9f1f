"""The yardstick computes what the denoiser computes: only what it costs differs."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from liveact_models.checkpoint import open_checkpoint
from liveact_models.denoiser import BlockDenoiser
from liveact_models.parity import relative_error
from liveact_models.released import ReleasedDenoiser
from liveact_models.timeline import AUDIO_REACH, block_frames


@pytest.mark.parametrize("sampler", ["renoise", "euler"])
def test_the_released_algorithm_gives_the_same_latents(sampler: str) -> None:
    checkpoint = open_checkpoint("untrained", "tiny")
    config = checkpoint.config
    transformer, model = checkpoint.load_transformer(), config.transformer
    sampling = dataclasses.replace(config.sampling, sampler=sampler)
    draw = torch.Generator().manual_seed(3)
    text, clip, reference = (
        torch.randn(shape, generator=draw)
        for shape in ((5, model.text_dim), (model.clip_tokens, model.clip_dim), (16, 14, 6, 4))
    )
    ours = BlockDenoiser(transformer, config, sampling)
    theirs = ReleasedDenoiser(transformer, config, sampling)
    state = ours.open(width=32, height=48, fps=20, seed=9, text=text, clip=clip, reference=reference)
    session = theirs.open(9, text, clip, reference)
    # Five blocks: the recurrent memory holds what was compressed twice.
    for block in range(5):
        frames = len(block_frames(block)) + 2 * AUDIO_REACH
        audio = torch.randn(frames, model.audio_blocks, model.audio_channels, generator=draw)
        assert relative_error(theirs.denoise(session, audio), ours.denoise(state, block, audio)) < 1e-5


def test_audio_guidance_is_refused() -> None:
    checkpoint = open_checkpoint("untrained", "tiny")
    sampling = dataclasses.replace(checkpoint.config.sampling, audio_guidance=1.5)
    with pytest.raises(ValueError, match="accepted is audio_guidance 1"):
        ReleasedDenoiser(checkpoint.load_transformer(), checkpoint.config, sampling)
