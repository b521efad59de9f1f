"""Liveliness: how much the head moves and how often the eyes blink, read from the pose the judge sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

HEAD = ("yaw", "pitch", "roll")
SHUT = 0.5
"""Where a lid counts as shut."""


def head_motion(tracks: Sequence[NDArray[np.floating]]) -> float:
    """How far the head moves about its mean pose: root mean square over tracks [T_i, 3] as `HEAD`, each about its own mean."""
    moved = np.concatenate([track - track.mean(axis=0) for track in tracks])
    return float(np.sqrt(np.square(moved).mean()))


def blinks(lids: NDArray[np.floating]) -> int:
    """How often the lids [T] shut."""
    shut = np.concatenate(([False], np.asarray(lids) > SHUT))
    return int(np.count_nonzero(shut[1:] & ~shut[:-1]))
