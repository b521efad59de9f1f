"""Rendered clips with the boxes of mouth and face, in shards that are mapped and not read: what the autoencoder trains on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from liveact_models.training import TrainingError

PICTURES = "pictures-{:05d}.npy"
BOXES = "boxes-{:05d}.npy"
MOUTH, FACE = 0, 1


@dataclass(frozen=True)
class Shots:
    """Pieces of clips, all of one size, and where in them things are."""

    video: Tensor
    """[B, 3, T, H, W] in [-1, 1]."""
    boxes: Tensor
    """[B, T, 2, 4]: mouth and face, each (x0, y0, x1, y1) in pixels, which may lie outside."""

    def covered(self, box: Tensor) -> Tensor:
        """Where a box [B, T, 4] in pixels lies: a mask [B, 1, T, H, W] of the video's type."""
        height, width = self.video.shape[-2:]
        x = torch.arange(width, device=box.device) + 0.5
        y = torch.arange(height, device=box.device) + 0.5
        x0, y0, x1, y1 = (edge[..., None] for edge in box.unbind(dim=-1))
        across, along = (x >= x0) & (x <= x1), (y >= y0) & (y <= y1)  # [B, T, W], [B, T, H]
        return (along[..., None] & across[..., None, :])[:, None].to(self.video.dtype)

    @property
    def mouth(self) -> Tensor:
        """Mask of the mouth [B, 1, T, H, W]."""
        return self.covered(self.boxes[:, :, MOUTH])

    @property
    def eyes(self) -> Tensor:
        """Mask of the eyes and brows [B, 1, T, H, W]."""
        return self.covered(eyes_of(self.boxes[:, :, FACE]))

    def changed(self, flip: Tensor, colours: Tensor) -> Shots:
        """Mirrored where flip [B] says so, and with colours [B, 3] in another order: more looks than are drawn."""
        width = self.video.shape[-1]
        video = torch.where(flip.view(-1, 1, 1, 1, 1), self.video.flip(-1), self.video)
        video = torch.stack([clip[order] for clip, order in zip(video, colours, strict=True)])
        x0, y0, x1, y1 = self.boxes.unbind(dim=-1)
        mirrored = torch.stack([width - x1, y0, width - x0, y1], dim=-1)
        return replace(self, video=video, boxes=torch.where(flip.view(-1, 1, 1, 1), mirrored, self.boxes))


@dataclass(frozen=True)
class Window:
    """A square of `side` pixels in the frames [start, start + frames) of a clip."""

    clip: int
    x: int
    y: int
    side: int
    start: int
    frames: int


class PictureBank:
    """K clips of T frames, `size` pixels squared."""

    def __init__(self, folder: Path) -> None:
        """Maps the shards of the folder. Raises `TrainingError` when there is none or one is damaged."""
        paths = sorted(folder.glob("pictures-*.npy"))
        if not paths:
            raise TrainingError(f"{folder}: no pictures; run `liveact train world` first")
        try:
            # Copy on write, since torch knows no read-only memory; nobody writes.
            self._pictures = [torch.from_numpy(np.load(path, mmap_mode="c")) for path in paths]
            self.boxes = torch.from_numpy(
                np.concatenate([np.load(path.with_name(path.name.replace("pictures", "boxes"))) for path in paths])
            )
        except (OSError, ValueError) as error:
            raise TrainingError(f"{folder}: a shard is damaged ({error}); delete it and make the world again") from None
        self._ends = np.cumsum([len(shard) for shard in self._pictures])
        _, self.frames, self.size, *_ = self._pictures[0].shape

    def __len__(self) -> int:
        return int(self._ends[-1])

    def to(self, device: torch.device) -> PictureBank:
        """Moves all pictures into a GPU's memory; on a CPU they stay mapped."""
        if device.type != "cpu":
            self._pictures = [shard.to(device) for shard in self._pictures]
            self.boxes = self.boxes.to(device)
        return self

    def box(self, clip: int, frame: int, which: int) -> tuple[float, float, float, float]:
        """The box of MOUTH or FACE (x0, y0, x1, y1) in pixels of the whole picture."""
        x0, y0, x1, y1 = (self.boxes[clip, frame, which] * self.size).tolist()
        return x0, y0, x1, y1

    def shots(self, windows: Iterable[Window]) -> Shots:
        """What is seen through the windows, all of one side and length."""
        pictures, boxes = [], []
        for window in windows:
            shard = int(np.searchsorted(self._ends, window.clip, side="right"))
            within = window.clip - (int(self._ends[shard - 1]) if shard else 0)
            frames = slice(window.start, window.start + window.frames)
            rows, columns = (slice(edge, edge + window.side) for edge in (window.y, window.x))
            pictures.append(self._pictures[shard][within, frames, rows, columns])
            offset = torch.tensor([window.x, window.y, window.x, window.y], device=self.boxes.device)
            boxes.append(self.boxes[window.clip, frames] * self.size - offset)
        return Shots(to_video(torch.stack(pictures)), torch.stack(boxes))

    def whole(self, clips: Iterable[int], frames: int | None = None) -> Shots:
        """The clips' first frames, by default all of them."""
        return self.shots(Window(clip, 0, 0, self.size, 0, frames or self.frames) for clip in clips)


def save_shard(folder: Path, index: int, pictures: NDArray[np.uint8], boxes: NDArray[np.float32]) -> None:
    """Write pictures [K, T, H, W, 3] and boxes [K, T, 2, 4] in fractions of the picture, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in ((BOXES, boxes), (PICTURES, pictures)):
        part = folder / f".{name.format(index)}.part"
        with part.open("wb") as file:
            _save(file, array)
        part.replace(folder / name.format(index))


def to_video(pictures: Tensor) -> Tensor:
    """Pictures [B, T, H, W, 3] (uint8) to video [B, 3, T, H, W] in [-1, 1]."""
    return pictures.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def eyes_of(face: Tensor) -> Tensor:
    """The band [..., 4] of eyes and brows in a face's box [..., 4]."""
    x0, y0, x1, y1 = face.unbind(dim=-1)
    height = y1 - y0
    return torch.stack([x0, y0 + 0.25 * height, x1, y0 + 0.58 * height], dim=-1)


def _save(file: IO[bytes], array: NDArray[np.generic]) -> None:
    np.save(file, np.ascontiguousarray(array))
