"""The measures of the literature, by networks whose weights a user supplies in one folder.

| file | measure | what it must be |
|---|---|---|
| syncnet_v2.model | Sync-C, Sync-D | the weights that SyncNet's authors published |
| inception*.pt | FID | TorchScript of Inception-v3 (StyleGAN's inception-2015-12-05.pt) |
| i3d*.pt | FVD | TorchScript of I3D (StyleGAN-V's i3d_torchscript.pt) |

None of them comes with this package. A measure whose file is missing is left out and named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from liveact_models.evaluate.frechet import Gaussian, frechet_distance
from liveact_models.evaluate.syncnet import SyncNet

MEASURES = {
    "Sync-C/D": ("syncnet_v2.model", "the weights published by SyncNet's authors"),
    "FID": (
        "inception*.pt",
        "TorchScript of Inception-v3, called with return_features=True, as inception-2015-12-05.pt",
    ),
    "FVD": ("i3d*.pt", "TorchScript of I3D, called with rescale, resize, return_features, as i3d_torchscript.pt"),
}
"""By measure: the name its file must have, and what it must be."""
FVD_FRAMES = 16
"""Frames of one video feature, as in StyleGAN-V's FVD16; windows do not overlap."""


class PublishedError(RuntimeError):
    """A folder or file of weights that cannot be used; the message names it and what is accepted."""


@dataclass(frozen=True)
class PublishedNetworks:
    """Those networks that the folder holds; None for the others."""

    syncnet: SyncNet | None
    inception: Callable[..., Tensor] | None
    i3d: Callable[..., Tensor] | None
    missing: tuple[str, ...]
    """A line for every measure that has to be left out."""

    @classmethod
    def load(cls, folder: Path) -> PublishedNetworks:
        """Raises `PublishedError` for no folder, one that holds none of the files, and files that are something else."""
        if not folder.is_dir():
            raise PublishedError(f"{folder}: not a folder; accepted is one with {_accepted()}")
        found = {measure: sorted(folder.glob(pattern)) for measure, (pattern, _) in MEASURES.items()}
        if not any(found.values()):
            raise PublishedError(f"{folder}: holds none of the weights; accepted are {_accepted()}")
        for measure, files in found.items():
            if len(files) > 1:
                names = ", ".join(file.name for file in files)
                raise PublishedError(f"{folder}: {names}: accepted is one file for {measure}")
        missing = tuple(
            f"{measure} is left out: {folder} has no {pattern} ({what})"
            for measure, (pattern, what) in MEASURES.items()
            if not found[measure]
        )
        syncnet, inception, i3d = (files[0] if files else None for files in found.values())
        return cls(
            syncnet=_syncnet(syncnet) if syncnet else None,
            inception=_torchscript(inception) if inception else None,
            i3d=_torchscript(i3d) if i3d else None,
            missing=missing,
        )


@torch.inference_mode()
def inception_features(
    network: Callable[..., Tensor], frames: NDArray[np.uint8], batch: int = 16
) -> NDArray[np.float64]:
    """Features [T, D] of pictures [T, H, W, 3]. Raises `PublishedError` for a network of another interface."""
    chunks = (frames[start : start + batch] for start in range(0, len(frames), batch))
    pictures = (torch.from_numpy(np.ascontiguousarray(chunk)).permute(0, 3, 1, 2) for chunk in chunks)
    return np.concatenate([_call(network, "inception*.pt", part, return_features=True) for part in pictures])


@torch.inference_mode()
def i3d_features(network: Callable[..., Tensor], frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Features [T // 16, D] of a video [T, H, W, 3], one for every 16 frames; errors as `inception_features`."""
    return np.concatenate(
        [
            _call(network, "i3d*.pt", part, rescale=True, resize=True, return_features=True)
            for part in _windows(frames)
        ]
    )  # fmt: skip


def frechet_of(features: list[NDArray[np.float64]], truth: list[NDArray[np.float64]]) -> float:
    """Fréchet distance of two sets, each the features [N, D] of several videos. Raises `ValueError` for fewer than two."""
    return frechet_distance(Gaussian.of(np.concatenate(features)), Gaussian.of(np.concatenate(truth)))


def _windows(frames: NDArray[np.uint8]) -> Iterator[Tensor]:
    """Whole windows of the video [T, H, W, 3] as float [1, 3, 16, H, W] from 0 to 255."""
    if len(frames) < FVD_FRAMES:
        raise ValueError(f"a video of {len(frames)} frames: FVD accepts {FVD_FRAMES} and more")
    for start in range(0, len(frames) - FVD_FRAMES + 1, FVD_FRAMES):
        window = np.ascontiguousarray(frames[start : start + FVD_FRAMES])
        yield torch.from_numpy(window).permute(3, 0, 1, 2)[None].float()


def _call(network: Callable[..., Tensor], pattern: str, pictures: Tensor, **options: bool) -> NDArray[np.float64]:
    try:
        features = network(pictures, **options)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise PublishedError(f"{pattern}: does not take {', '.join(options)}: {reason}") from None
    if features.ndim != 2 or len(features) != len(pictures):
        raise PublishedError(f"{pattern}: gave {tuple(features.shape)} for {len(pictures)} inputs; accepted is [N, D]")
    return features.double().cpu().numpy()


def _syncnet(path: Path) -> SyncNet:
    try:
        return SyncNet.load(path)
    except ValueError as error:
        raise PublishedError(str(error)) from None


def _torchscript(path: Path) -> Any:
    try:
        return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise PublishedError(f"{path}: not a TorchScript file ({reason})") from None


def _accepted() -> str:
    return "; ".join(f"{pattern} for {measure}" for measure, (pattern, _) in MEASURES.items())
