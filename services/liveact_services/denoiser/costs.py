"""What a block takes on this device, as measured while it runs; with a device a step, on the one that takes longest."""

from __future__ import annotations

from collections import deque

WINDOW = 32
"""Blocks of a size that are remembered."""
OUTLIERS = 0.1
"""Share of them, the slowest, that is left out: the first after a start, or one that something else held up."""


class BlockCosts:
    """Device seconds of a block by picture size.

    The frame rate changes how often a session needs a block, not what one takes, so it is no part of the class.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, deque[float]] = {}
        """By pixels of a frame."""
        self._typical: dict[int, float] = {}
        """What was made of them, until the next is measured."""
        self.measured = 0
        """Blocks: what was worked out from the costs holds as long as this stays."""

    def record(self, width: int, height: int, block_s: float) -> None:
        """A block of this size took so long on the device."""
        self._seconds.setdefault(width * height, deque(maxlen=WINDOW)).append(block_s)
        self._typical.pop(width * height, None)
        self.measured += 1

    def block_s(self, width: int, height: int) -> float | None:
        """What a block of this size takes; None while no block of any size was measured.

        A size not seen yet is judged by the nearest one that was, never as cheaper than it can be: linear in the pixels for a
        smaller one, and quadratic, as attention is, for a larger one.
        """
        pixels = width * height
        if not self._seconds:
            return None
        near = (
            pixels
            if pixels in self._seconds
            else min(self._seconds, key=lambda seen: max(seen / pixels, pixels / seen))
        )
        ratio = pixels / near
        if near not in self._typical:
            self._typical[near] = _typical(self._seconds[near])
        return self._typical[near] * (ratio**2 if ratio > 1 else ratio)


def _typical(seconds: deque[float]) -> float:
    kept = sorted(seconds)[: max(1, round(len(seconds) * (1 - OUTLIERS)))]
    return sum(kept) / len(kept)
