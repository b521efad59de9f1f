"""Fréchet distance between two sets of pictures in a fixed feature space (Heusel et al. 2017, "FID").

The space here is that of a convolutional network with fixed random weights: it needs no download, is the same everywhere, and
knows nothing of what it is asked to judge. Its distances compare pictures of one size with each other; they are not FIDs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

FEATURE_SIDE = 128
"""Pictures are brought to this many pixels a side first."""
CHANNELS = (24, 48, 96)
SEED = 20170626


class RandomFeatures(nn.Module):
    """Three convolutions 5x5, stride 2, leaky ReLU, seeded He weights; every layer gives its channels' mean and spread."""

    def __init__(self) -> None:
        super().__init__()
        # RandomState's stream is frozen by NumPy's compatibility policy (NEP 19); torch promises none.
        rng = np.random.RandomState(SEED)
        layers, width = [], 3
        for channels in CHANNELS:
            layer = nn.Conv2d(width, channels, 5, stride=2, padding=2, bias=False)
            weight = rng.standard_normal((channels, width, 5, 5)) * np.sqrt(2 / (25 * width))
            # Filters without a mean answer to structure; the colours themselves are added as features of their own.
            weight -= weight.mean(axis=(2, 3), keepdims=True)
            layer.weight = nn.Parameter(torch.from_numpy(weight.astype(np.float32)), requires_grad=False)
            layers.append(layer)
            width = channels
        self.layers = nn.ModuleList(layers)

    @property
    def dim(self) -> int:
        return 2 * (3 + sum(CHANNELS))

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """Features [B, dim] of pictures [B, 3, side, side] in [-1, 1]."""
        parts = [_moments(pictures)]
        for layer in self.layers:
            pictures = functional.leaky_relu(layer(pictures), 0.2)
            parts.append(_moments(pictures))
        return torch.cat(parts, dim=1)


def _moments(maps: Tensor) -> Tensor:
    """Mean and standard deviation of every channel: [B, C, h, w] -> [B, 2C]."""
    return torch.cat((maps.mean(dim=(2, 3)), maps.std(dim=(2, 3))), dim=1)


@cache
def _features() -> RandomFeatures:
    return RandomFeatures().eval()


def random_features(frames: NDArray[np.uint8], batch: int = 64) -> NDArray[np.float64]:
    """Features [T, dim] of pictures [T, H, W, 3]."""
    made = []
    for start in range(0, len(frames), batch):
        pictures = torch.from_numpy(np.ascontiguousarray(frames[start : start + batch])).permute(0, 3, 1, 2).float()
        if pictures.shape[2:] != (FEATURE_SIDE, FEATURE_SIDE):
            pictures = functional.interpolate(pictures, (FEATURE_SIDE, FEATURE_SIDE), mode="bilinear", antialias=True)
        made.append(_features()(pictures / 127.5 - 1))
    return torch.cat(made).double().numpy()


@dataclass(frozen=True)
class Gaussian:
    """Mean [D] and covariance [D, D] of a set of features."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @classmethod
    def of(cls, features: NDArray[np.floating]) -> Gaussian:
        """Of features [N, D]. Raises `ValueError` for fewer than two or for values that are not finite."""
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"features {features.shape}: accepted are [N, D] with N > 1")
        if not np.isfinite(features).all():
            raise ValueError("features hold values that are not finite")
        wide = features.astype(np.float64)
        return cls(wide.mean(axis=0), np.atleast_2d(np.cov(wide, rowvar=False)))


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), never negative.

    The root's trace is that of (C1^(1/2) C2 C1^(1/2))^(1/2), which is symmetric and so needs eigh only: singular covariances,
    that is fewer pictures than features, do no harm. Raises `ValueError` for spaces of different dimension.
    """
    if one.mean.shape != other.mean.shape:
        raise ValueError(f"features of {len(one.mean)} and {len(other.mean)} dimensions cannot be compared")
    root = _symmetric_root(one.covariance)
    crossed = np.linalg.eigvalsh(root @ other.covariance @ root)
    shared = np.sqrt(crossed.clip(min=0)).sum()
    apart = np.square(one.mean - other.mean).sum()
    return max(0.0, float(apart + np.trace(one.covariance) + np.trace(other.covariance) - 2 * shared))


def _symmetric_root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The root of a symmetric matrix without negative eigenvalues but for rounding."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
