"""What an all-knowing operator would have needed at least for the same sessions."""

from __future__ import annotations

import numpy as np


def fewest_replica_seconds(
    begins_s: np.ndarray, ends_s: np.ndarray, need: np.ndarray, bound: float, until_s: float
) -> float:
    """The integral from 0 to `until_s` of the fewest replicas that hold what is present, whatever moves that takes.

    A lower bound: replicas start at once and at the right moment, sessions move for nothing, and any set of them packs
    without a gap. No policy reaches it.
    """
    if not len(begins_s):
        return 0.0
    begins, ends = np.clip(begins_s, 0, until_s), np.clip(ends_s, 0, until_s)
    times = np.concatenate((begins, ends))
    change = np.concatenate((need, -need))
    order = np.argsort(times, kind="stable")
    present = np.cumsum(change[order])
    lasts = np.diff(np.append(times[order], until_s))
    return float(np.sum(np.ceil(present / bound - 1e-6) * lasts))
