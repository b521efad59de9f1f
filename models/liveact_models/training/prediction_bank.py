"""Clips three ways: their pictures, their latents, and the latents that the transformer makes of them.

What a decoder is trained on that shall make sharp pictures of what it will really be given.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from liveact_models.timeline import FRAMES_PER_LATENT
from liveact_models.training import TrainingError
from liveact_models.training.picture_bank import PictureBank, Shots, Window, save_shard

LATENTS = "latents-{:05d}.safetensors"
STRIDE = 8
"""Pixels of a latent's side."""


class PredictionBank:
    """K clips of F latent and T = 1 + 4 (F - 1) video frames; pictures stay mapped, latents are float16 in memory."""

    def __init__(self, folder: Path) -> None:
        """All shards of the folder. Raises `TrainingError` when there is none or one is damaged."""
        paths = sorted(folder.glob("latents-*.safetensors"))
        if not paths:
            raise TrainingError(f"{folder}: no predictions; run `liveact train predictions` first")
        shards = [load_file(path) for path in paths]
        self.true = torch.cat([shard["true"] for shard in shards])
        """[K, 16, F, h, w]."""
        self.predicted = torch.cat([shard["predicted"] for shard in shards])
        self.pictures = PictureBank(folder)
        if len(self.pictures) != len(self.true):
            raise TrainingError(
                f"{folder}: {len(self.true)} clips have latents and {len(self.pictures)} pictures; delete the folder "
                "and make it again"
            )

    def __len__(self) -> int:
        return len(self.true)

    def latents(self, windows: list[Window], which: Tensor) -> Tensor:
        """What lies under the windows, predicted where `which` [B] is true: float32 [B, 16, F', side / 8, side / 8].

        A window's x, y and side are multiples of 8 and its start of 4; its first latent frame is the one whose last video
        frame the window starts with.
        """
        parts = []
        for window, predicted in zip(windows, which.tolist(), strict=True):
            first = window.start // FRAMES_PER_LATENT
            frames = slice(first, first + 1 + (window.frames - 1) // FRAMES_PER_LATENT)
            rows, columns = (slice(edge // STRIDE, (edge + window.side) // STRIDE) for edge in (window.y, window.x))
            parts.append((self.predicted if predicted else self.true)[window.clip, :, frames, rows, columns].float())
        return torch.stack(parts).to(self.pictures.boxes.device)

    def shots(self, windows: list[Window]) -> Shots:
        """The pictures under the windows."""
        return self.pictures.shots(windows)

    def to(self, device: torch.device) -> PredictionBank:
        """Moves the pictures into a GPU's memory; on a CPU they stay mapped."""
        self.pictures.to(device)
        return self


def on_the_grid(window: Window, size: int) -> Window:
    """The nearest window whose corner and start are a latent's own, inside a picture of `size` pixels."""
    x, y = (min(round(edge / STRIDE) * STRIDE, size - window.side) for edge in (window.x, window.y))
    start = window.start // FRAMES_PER_LATENT * FRAMES_PER_LATENT
    return Window(window.clip, x, y, window.side, start, window.frames)


def save_predictions(
    folder: Path, shard: int, true: Tensor, predicted: Tensor, pictures: NDArray[np.uint8], boxes: NDArray[np.float32]
) -> None:
    """Write a shard, its latents last: a shard that has them is whole."""
    save_shard(folder, shard, pictures, boxes)
    path = folder / LATENTS.format(shard)
    part = path.with_suffix(".part")
    save_file({"true": true.half().contiguous(), "predicted": predicted.half().contiguous()}, part)
    part.replace(path)
