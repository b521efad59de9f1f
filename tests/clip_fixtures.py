"""A small bank of made-up clips, and a run folder that has them."""

from __future__ import annotations

from pathlib import Path

import torch

from liveact_models.config import preset
from liveact_models.timeline import AUDIO_REACH, block_frames
from liveact_models.training.clip_bank import SHARD, ClipBank, mouth_by_latent
from liveact_models.training.clip_transformer import clip_latents
from liveact_models.training.run_folder import RunFolder

BLOCKS, SIDE, CLIPS = 3, 4, 6


def bank() -> ClipBank:
    """Clips whose latents move with the first mouth value: there is something to learn from the sound."""
    sizes = preset("tiny").transformer
    draws = torch.Generator().manual_seed(4)
    frames = block_frames(BLOCKS - 1).stop
    mouth = torch.rand(CLIPS, frames, 4, generator=draws)
    rows = sum(len(block_frames(block)) + 2 * AUDIO_REACH for block in range(BLOCKS))
    per_latent = mouth_by_latent(mouth)[..., 0].mean(dim=2)  # [K, F]
    pattern = torch.randn(16, 1, SIDE, SIDE, generator=draws)
    features = torch.zeros(CLIPS, rows, sizes.audio_blocks, sizes.audio_channels)
    start = 0
    for block in range(BLOCKS):
        heard = range(block_frames(block).start - AUDIO_REACH, block_frames(block).stop + AUDIO_REACH)
        for row, frame in enumerate(heard):
            features[:, start + row, :, 0] = mouth[:, min(max(frame, 0), frames - 1), :1] * 4 - 2
        start += len(heard)
    fields = {
        "latents": pattern * (per_latent[:, None, :, None, None] * 4 - 2),
        "reference": torch.randn(CLIPS, 16, 14, SIDE, SIDE, generator=draws),
        "features": features,
        "text": torch.randn(CLIPS, BLOCKS, sizes.text_len, sizes.text_dim, generator=draws),
        "clip": torch.randn(CLIPS, sizes.clip_tokens, sizes.clip_dim, generator=draws),
        "mouth": mouth,
        "regions": torch.rand(CLIPS, clip_latents(BLOCKS), 2, SIDE // 2, SIDE // 2, generator=draws),
    }
    return ClipBank(**{name: value.half() for name, value in fields.items()})


def run_with_clips(folder: Path) -> RunFolder:
    run = RunFolder(folder)
    run.latents.mkdir(parents=True)
    bank().save(run.latents / SHARD.format(0))
    return run
