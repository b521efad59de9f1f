"""How the mouth that is seen follows the mouth that was meant, channel by channel.

Tracks are float [T] of one video each. Several videos are pooled frame by frame, never joined: no lag looks across their ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from liveact_models.world.mouth import MOUTH

LAG_REACH = 6
"""Frames either way in which the best lag is sought: 0.3 s at 20 fps."""

Track = NDArray[np.floating]


@dataclass(frozen=True)
class Agreement:
    """What one track says of another; NaN where one of them never moves."""

    r: float
    """Pearson's correlation at lag 0."""
    slope: float
    """Of the seen track regressed on the true one: 1 is the full amplitude."""
    lag: int
    """Frames by which the seen track comes late (negative: early) where the correlation is highest."""
    r_at_lag: float


def agreement(truth: Sequence[ArrayLike], seen: Sequence[ArrayLike], reach: int = LAG_REACH) -> Agreement:
    """Pool the videos' tracks, `truth[i]` and `seen[i]` [T_i] of video i, and compare.

    Raises `ValueError` for no video, lists or tracks of unequal length, and videos not longer than `reach` frames.
    """
    pairs = [
        (np.asarray(true, np.float64), np.asarray(shown, np.float64)) for true, shown in _zip_equal(truth, seen, reach)
    ]
    by_lag = {lag: _regress([_shifted(true, shown, lag) for true, shown in pairs]) for lag in range(-reach, reach + 1)}
    r, slope = by_lag[0]
    if np.isnan(r):
        return Agreement(r, slope, 0, r)
    # The nearest of equal lags.
    lag = max(by_lag, key=lambda lag: (by_lag[lag][0], -abs(lag)))
    return Agreement(r, slope, lag, by_lag[lag][0])


def agreements(truth: Sequence[Track], seen: Sequence[Track]) -> dict[str, Agreement]:
    """`agreement` of every channel of mouth tracks [T_i, 4], by the names of `MOUTH`."""
    return {
        name: agreement([track[:, channel] for track in truth], [track[:, channel] for track in seen])
        for channel, name in enumerate(MOUTH)
    }


def _zip_equal(truth: Sequence[ArrayLike], seen: Sequence[ArrayLike], reach: int) -> list[tuple[ArrayLike, ArrayLike]]:
    if not truth or len(truth) != len(seen):
        raise ValueError(f"{len(truth)} true tracks and {len(seen)} seen ones: accepted is one of each for every video")
    for number, (true, shown) in enumerate(zip(truth, seen, strict=True)):
        shapes = np.shape(true), np.shape(shown)
        if shapes[0] != shapes[1] or len(shapes[0]) != 1 or shapes[0][0] <= reach:
            raise ValueError(f"video {number}: tracks {shapes[0]} and {shapes[1]}; accepted are two [T] of T > {reach}")
    return list(zip(truth, seen, strict=True))


def _shifted(true: Track, shown: Track, lag: int) -> tuple[Track, Track]:
    """What was shown `lag` frames after it was meant, beside what was meant."""
    length = len(true) - abs(lag)
    return true[max(0, -lag) :][:length], shown[max(0, lag) :][:length]


def _regress(pairs: Sequence[tuple[Track, Track]]) -> tuple[float, float]:
    """Correlation and slope of y on x over all pairs; both NaN for an x that is constant, r also for such a y."""
    x = np.concatenate([pair[0] for pair in pairs])
    y = np.concatenate([pair[1] for pair in pairs])
    x, y = x - x.mean(), y - y.mean()
    xx, yy, xy = float(x @ x), float(y @ y), float(x @ y)
    tiny = 1e-12 * len(x)
    slope = xy / xx if xx > tiny else float("nan")
    return (xy / float(np.sqrt(xx * yy)) if xx > tiny and yy > tiny else float("nan")), slope
