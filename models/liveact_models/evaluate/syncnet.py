"""SyncNet (Chung and Zisserman 2016, "Out of time"): how far lips and voice lie apart, and how surely.

The network and its measure are those of the authors' release, so that their weights (syncnet_v2.model) load by name:
Sync-D is the distance at the best offset, Sync-C the confidence, both over a whole video of 25 fps and 16 kHz.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

RATE = 16000
FPS = 25
SIDE = 224
FRAMES = 5
"""Frames of video in one window, and of sound 20, at 100 Hz."""
REACH = 15
"""Frames either way in which the best offset is sought."""
_CEPSTRA = 13


def _conv(
    dims: int, width: int, channels: int, kernel: tuple, stride: int | tuple = 1, padding: int | tuple = 0
) -> list:
    kind, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
    return [kind(width, channels, kernel, stride=stride, padding=padding), norm(channels), nn.ReLU()]


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))


class SyncNet(nn.Module):
    """Two towers into one space; parameter names are those of the published weights."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_conv(2, 1, 64, (3, 3), padding=1), nn.MaxPool2d(1, 1),
            *_conv(2, 64, 192, (3, 3), padding=1), nn.MaxPool2d(3, (1, 2)),
            *_conv(2, 192, 384, (3, 3), padding=1), *_conv(2, 384, 256, (3, 3), padding=1),
            *_conv(2, 256, 256, (3, 3), padding=1), nn.MaxPool2d(3, 2),
            *_conv(2, 256, 512, (5, 4)),
        )  # fmt: skip
        self.netcnnlip = nn.Sequential(
            *_conv(3, 3, 96, (5, 7, 7), (1, 2, 2)), nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_conv(3, 96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1)), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_conv(3, 256, 256, (1, 3, 3), padding=(0, 1, 1)), *_conv(3, 256, 256, (1, 3, 3), padding=(0, 1, 1)),
            *_conv(3, 256, 256, (1, 3, 3), padding=(0, 1, 1)), nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_conv(3, 256, 512, (1, 6, 6)),
        )  # fmt: skip
        self.netfcaud = _head()
        self.netfclip = _head()

    @classmethod
    def load(cls, path: Path) -> SyncNet:
        """The network with the published weights; raises `ValueError` for a file that holds others."""
        import pickle

        network = cls()
        try:
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except (RuntimeError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"{path}: not SyncNet's weights ({first}); accepted is syncnet_v2.model as published"
            ) from None
        return network.eval().requires_grad_(False)

    def hear(self, sound: Tensor) -> Tensor:
        """Cepstra [B, 1, 13, 20] -> [B, 1024]."""
        return self.netfcaud(self.netcnnaud(sound).flatten(1))

    def look(self, video: Tensor) -> Tensor:
        """Pictures [B, 3 (blue, green, red), 5, 224, 224] from 0 to 255 -> [B, 1024]."""
        return self.netfclip(self.netcnnlip(video).flatten(1))


@dataclass(frozen=True)
class Sync:
    """Of one video."""

    distance: float
    """Sync-D: at the best offset, averaged over all windows; lower is better."""
    confidence: float
    """Sync-C: the median distance over all offsets less the best; higher is better."""
    offset: int
    """Frames of 25 fps by which the sound has to be moved; 0 is in time."""


@torch.inference_mode()
def sync(
    network: SyncNet, frames: NDArray[np.uint8], fps: float, samples: NDArray[np.float32], batch: int = 20
) -> Sync:
    """Compare a video of one face [T, H, W, 3] with its voice [n] at 16 kHz. The face should fill the picture.

    Frames are repeated or dropped to 25 fps. Raises `ValueError` for less than six frames of both at that rate.
    """
    times = np.arange(int(len(frames) * FPS / fps + 1e-6))
    chosen = np.minimum((times * fps / FPS).round().astype(int), len(frames) - 1)
    length = min(len(chosen), len(samples) * FPS // RATE) - FRAMES
    if length < 1:
        raise ValueError(
            f"{len(frames)} frames and {len(samples)} samples: accepted are {FRAMES + 1} frames at {FPS} fps"
        )
    # The published weights were fitted to 16-bit sound.
    sound = torch.from_numpy(cepstra(samples * 32768).T[None, None].astype(np.float32))
    # The last windows of sound may want more than there is, by the length of one analysis window.
    sound = functional.pad(sound, (0, max(0, 4 * (length - 1) + 20 - sound.shape[3]), 0, 0), mode="replicate")
    seen, heard = [], []
    for start in range(0, length, batch):
        windows = range(start, min(start + batch, length))
        needed = chosen[start : windows[-1] + FRAMES]
        pictures = torch.from_numpy(frames[needed][..., ::-1].copy()).permute(0, 3, 1, 2).float()
        if pictures.shape[2:] != (SIDE, SIDE):
            pictures = functional.interpolate(pictures, (SIDE, SIDE), mode="bilinear", antialias=True)
        seen.append(
            network.look(torch.stack([pictures[at - start : at - start + FRAMES].transpose(0, 1) for at in windows]))
        )
        heard.append(network.hear(torch.cat([sound[..., 4 * at : 4 * at + 20] for at in windows])))
    return _measure(torch.cat(seen), torch.cat(heard))


def _measure(seen: Tensor, heard: Tensor) -> Sync:
    """The authors' measure on features [windows, 1024]; beyond the ends the sound's features are zero, as theirs are."""
    padded = functional.pad(heard, (0, 0, REACH, REACH))
    distances = torch.stack(
        [functional.pairwise_distance(seen, padded[shift : shift + len(seen)]) for shift in range(2 * REACH + 1)]
    ).mean(dim=1)
    best = int(distances.argmin())
    return Sync(float(distances[best]), float(distances.median() - distances[best]), REACH - best)


def cepstra(samples: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mel-frequency cepstra [frames, 13] at 100 Hz of sound [n] at 16 kHz, 16-bit scale.

    As python_speech_features' `mfcc` with its defaults, which the published weights were fitted to: windows of 25 ms,
    pre-emphasis 0.97, 26 filters, 512 points, lifter 22, the log energy in place of the first.
    """
    window, hop, points = RATE // 40, RATE // 100, 512
    emphasised = np.append(samples[0], samples[1:] - 0.97 * samples[:-1]).astype(np.float64)
    count = 1 + max(0, -(-(len(emphasised) - window) // hop))
    emphasised = np.pad(emphasised, (0, max(0, (count - 1) * hop + window - len(emphasised))))
    frames = emphasised[np.arange(count)[:, None] * hop + np.arange(window)]  # [frames, 400]
    power = np.square(np.abs(np.fft.rfft(frames, points))) / points
    tiny = np.finfo(float).eps
    energy = power.sum(axis=1)
    mel = np.log(np.maximum(power @ _filters(points).T, tiny))
    coefficients = mel @ _cosines(mel.shape[1]).T
    coefficients *= 1 + 11 * np.sin(np.pi * np.arange(_CEPSTRA) / 22)
    coefficients[:, 0] = np.log(np.maximum(energy, tiny))
    return coefficients


@cache
def _filters(points: int, count: int = 26) -> NDArray[np.float64]:
    """Triangular filters [count, points / 2 + 1], evenly spaced in mel from 0 to 8 kHz."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, count + 2) / 2595) - 1)
    bins = np.floor((points + 1) * edges / RATE)
    at = np.arange(points // 2 + 1)
    filters = np.zeros((count, len(at)))
    for number, (low, middle, high) in enumerate(zip(bins, bins[1:], bins[2:], strict=False)):
        rising, falling = (at >= low) & (at < middle), (at >= middle) & (at < high)
        filters[number, rising] = (at[rising] - low) / (middle - low)
        filters[number, falling] = (high - at[falling]) / (high - middle)
    return filters


@cache
def _cosines(count: int) -> NDArray[np.float64]:
    """The orthonormal DCT-II [13, count]."""
    rows = np.cos(np.pi * np.arange(_CEPSTRA)[:, None] * (np.arange(count) + 0.5) / count) * np.sqrt(2 / count)
    rows[0] /= np.sqrt(2)
    return rows
