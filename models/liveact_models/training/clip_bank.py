"""Clips as the transformer sees them, in shards on disk and in memory: latents, conditions and what they show.

Latents travel a hundred times lighter than pictures, so a bank is encoded once and read whole.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from liveact_models.timeline import FRAMES_PER_LATENT, block_feature_frames
from liveact_models.training import TrainingError
from liveact_models.training.clip_transformer import ClipConditions, clip_latents

SHARD = "clips-{:05d}.safetensors"


@dataclass
class ClipBank:
    """K clips of N blocks, F latent and T video frames; float16 unless said."""

    latents: Tensor
    """[K, 16, F, h, w]."""
    reference: Tensor
    """[K, 16, 14, h, w]."""
    features: Tensor
    """[K, rows, layers, dim]: each block's rows (its frames and two more on either side) after the other's."""
    text: Tensor
    """[K, N, text_len, text_dim]."""
    clip: Tensor
    """[K, clip_tokens, clip_dim]."""
    mouth: Tensor
    """[K, T, 4]: the true mouth track."""
    regions: Tensor
    """[K, F, 2, h / 2, w / 2]: how much of each token the face (0) and the mouth (1) cover."""

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def blocks(self) -> int:
        return self.text.shape[1]

    def save(self, path: Path) -> None:
        """Whole or not at all."""
        part = path.with_suffix(".part")
        save_file({field.name: getattr(self, field.name).contiguous() for field in fields(self)}, part)
        part.replace(path)

    @classmethod
    def load(cls, folder: Path) -> ClipBank:
        """All shards of the folder; raises `TrainingError` when there is none."""
        paths = sorted(folder.glob("clips-*.safetensors"))
        if not paths:
            raise TrainingError(f"{folder}: no clips; run `liveact train latents` first")
        shards = [load_file(path) for path in paths]
        return cls(**{field.name: torch.cat([shard[field.name] for shard in shards]) for field in fields(cls)})

    def batch(self, chosen: Tensor, blocks: int, device: torch.device | str = "cpu") -> ClipBatch:
        """The first `blocks` blocks of the chosen clips [B], in float32."""

        def take(x: Tensor) -> Tensor:
            return x[chosen].to(device, torch.float32)

        frames = clip_latents(blocks)
        rows = [len(block_feature_frames(block)) for block in range(self.blocks)]
        conditions = ClipConditions(
            reference=take(self.reference),
            text=take(self.text[:, :blocks]),
            clip=take(self.clip),
            audio=list(take(self.features).split(rows, dim=1))[:blocks],
        )
        return ClipBatch(
            take(self.latents[:, :, :frames]),
            conditions,
            mouth_by_latent(take(self.mouth))[:, :frames],
            take(self.regions[:, :frames]),
        )


@dataclass(frozen=True)
class ClipBatch:
    latents: Tensor
    """[B, 16, F, h, w]."""
    conditions: ClipConditions
    mouth: Tensor
    """[B, F, 4, 4]: the mouth of the four video frames of every latent frame."""
    regions: Tensor
    """[B, F, 2, h / 2, w / 2]."""

    def weights(self, face: float, mouth: float) -> Tensor:
        """Loss weights of the latents [B, 1, F, h, w], mean 1: 1 + face * (covered by face) + mouth * (by mouth)."""
        tokens = 1 + face * self.regions[:, :, 0] + mouth * self.regions[:, :, 1]
        spread = tokens.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)
        return (spread / spread.mean())[:, None]


def mouth_by_latent(mouth: Tensor) -> Tensor:
    """Tracks [B, T, 4] -> [B, F, 4 frames, 4]; the first latent frame's one video frame stands four times."""
    first = mouth[:, :1].expand(-1, FRAMES_PER_LATENT, -1)
    return torch.cat((first, mouth[:, 1:]), dim=1).unflatten(1, (-1, FRAMES_PER_LATENT))
