"""The invisible mark: a few coefficients of every 8x8 block's cosine transform carry 56 bits, spread over the whole picture.

Each bit has a share of all (block, coefficient) pairs, by a fixed draw. A coefficient is moved to the nearest value that says its
bit: values that say 1 and values that say 0 alternate every half step, from an offset that is drawn too (quantisation index
modulation, Chen and Wornell 2001). What the picture itself says does not stand in the way, and a coefficient moves by half a step
at most. The same bits are in every frame, so that a reader sums over frames what compression has left.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from liveact_services.watermark.payload import BITS, bits

BLOCK = 8
COEFFICIENTS = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1))
"""Low ones: those that encoders keep."""
STEP, LARGE_STEP = 24.0, 20.0
"""Between values of a coefficient that say the same, in the transform's orthonormal units."""
LARGE = 1024
"""Blocks from which on a picture, 256x256, has so many for each bit that the smaller step will do."""
DRAW = 0x11EAC7
"""Seed of the fixed draw: who knows this code can read the mark, and wash it off."""


@lru_cache(maxsize=8)
def _layout(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Of each (block, coefficient): which bit it belongs to, int, and its offset, float32 [rows * columns * coefficients].

    And the step.
    """
    step = LARGE_STEP if rows * columns >= LARGE else STEP
    size = rows * columns * len(COEFFICIENTS)
    draw = np.random.Generator(np.random.PCG64(DRAW))
    owners = np.arange(size) % BITS
    draw.shuffle(owners)
    return owners, draw.uniform(0, step, size).astype(np.float32), step


@lru_cache(maxsize=1)
def _basis() -> np.ndarray:
    """The coefficients' patterns: float32 [coefficients, 64], orthonormal."""
    at = (2 * np.arange(BLOCK) + 1) * np.pi / (2 * BLOCK)
    waves = [
        np.full(BLOCK, np.sqrt(1 / BLOCK)) if k == 0 else np.sqrt(2 / BLOCK) * np.cos(k * at) for k in range(BLOCK)
    ]
    return np.array([np.outer(waves[u], waves[v]).ravel() for u, v in COEFFICIENTS], np.float32)


def _luma(rgb: np.ndarray) -> np.ndarray:
    """Brightness of uint8 [H, W, 3], in whole numbers until the last: float32 [H, W]."""
    weighted = rgb[..., 0] * np.uint16(77) + rgb[..., 1] * np.uint16(150) + rgb[..., 2] * np.uint16(29)
    return weighted.astype(np.float32) / 256


def _blocks(luma: np.ndarray) -> tuple[np.ndarray, int, int]:
    """[H, W] -> [blocks, 64] with their rows and columns; what does not fill a block is left out."""
    rows, columns = luma.shape[0] // BLOCK, luma.shape[1] // BLOCK
    cut = luma[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)
    return cut.transpose(0, 2, 1, 3).reshape(rows * columns, BLOCK * BLOCK), rows, columns


def votes(rgb: np.ndarray) -> np.ndarray:
    """What a frame, uint8 [H, W, 3], says of each bit, the mean of its coefficients' votes: from -1 for 0 to 1; float32 [56]."""
    blocks, rows, columns = _blocks(_luma(rgb))
    owners, offsets, step = _layout(rows, columns)
    said = np.sin(2 * np.pi / step * ((blocks @ _basis().T).ravel() - offsets))
    counts = np.bincount(owners, minlength=BITS)
    return (np.bincount(owners, said, BITS) / np.maximum(counts, 1)).astype(np.float32)


class Mark:
    """One session's mark at one picture size."""

    def __init__(self, session: str, width: int, height: int) -> None:
        self._rows, self._columns = height // BLOCK, width // BLOCK
        owners, offsets, self._step = _layout(self._rows, self._columns)
        # The values that say the bit: these, and every step from them.
        self._values = (offsets + bits(session)[owners] * np.float32(self._step / 4)).reshape(-1, len(COEFFICIENTS))

    def put(self, rgb: np.ndarray) -> None:
        """Into a frame, uint8 [H, W, 3], in place."""
        rows, columns, step = self._rows, self._columns, np.float32(self._step)
        inside = rgb[: rows * BLOCK, : columns * BLOCK]
        blocks, _, _ = _blocks(_luma(inside))
        beyond = blocks @ _basis().T - self._values
        change = (np.rint(beyond / step) * step - beyond) @ _basis()
        change = (
            change.reshape(rows, columns, BLOCK, BLOCK).transpose(0, 2, 1, 3).reshape(rows * BLOCK, columns * BLOCK)
        )
        # As much to red, green and blue: the brightness changes and no colour.
        inside[...] = np.clip(inside + np.rint(change).astype(np.int16)[..., None], 0, 255)
