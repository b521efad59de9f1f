"""Sharpness: the gradient energy of pictures, alone and relative to the truth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def gradient_energy(frames: NDArray[np.uint8]) -> float:
    """Mean squared difference of neighbouring pixels, down and across, of pictures [T, H, W, 3] in [0, 1]."""
    if frames.ndim != 4 or min(frames.shape[1:3]) < 2 or not len(frames):
        raise ValueError(f"frames {frames.shape}: accepted are [T, H, W, 3] with T > 0 and sides of 2 pixels and more")
    total = 0.0
    for frame in frames:  # one by one: minutes of video in float would not fit
        picture = frame.astype(np.float32) / 255
        down, across = np.diff(picture, axis=0), np.diff(picture, axis=1)
        total += float(np.square(down).mean() + np.square(across).mean())
    return total / len(frames)


def sharpness(frames: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Gradient energy relative to that of the true pictures: 1 is as sharp; blur lowers it, noise raises it.

    Raises `ValueError` for true pictures of one colour only, which have none.
    """
    energy = gradient_energy(truth)
    if energy == 0:
        raise ValueError("the true pictures have no edge: sharpness relative to them says nothing")
    return gradient_energy(frames) / energy
