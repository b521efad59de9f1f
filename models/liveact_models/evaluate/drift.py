"""Drift: how far a long video moves away from its portrait, minute by minute.

Three distances, each 0 for the portrait itself: `identity`, the cosine distance of the judge's identity feature, which is
trained to be the same for one person in any pose; `layout`, the difference of the coarse colours of the picture; `background`,
that of its upper corners, where nobody moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from liveact_models.evaluate.judge import Judge

MEASURES = ("identity", "layout", "background")
CORNER = 0.1
"""Side of a corner in fractions of the picture's shorter side."""
GRID = 8
SECONDS = 60.0


@dataclass
class Drift:
    """The distances of one video, part by part as it is made."""

    name: str
    fps: float
    judge: Judge
    portrait: NDArray[np.uint8]
    """[H, W, 3]"""
    ends: list[float] = field(default_factory=list)
    """When each part ends, in seconds."""
    distances: list[tuple[float, float, float]] = field(default_factory=list)
    """Of each part, as `MEASURES`."""

    def __post_init__(self) -> None:
        self._identity = self.judge.see(self.portrait[None]).identity[0]
        self._layout = _layout(self.portrait[None])
        self._corners = _corners(self.portrait[None])

    @property
    def seconds(self) -> float:
        return self.ends[-1] if self.ends else 0.0

    def add(self, frames: NDArray[np.uint8]) -> None:
        """The video goes on with frames [T, H, W, 3]; each call is one point of the curve."""
        likeness = self.judge.see(frames).identity @ self._identity
        self.distances.append(
            (
                float(1 - likeness.mean()),
                float(np.abs(_layout(frames) - self._layout).mean()),
                float(np.abs(_corners(frames) - self._corners).mean()),
            )
        )
        self.ends.append(self.seconds + len(frames) / self.fps)

    def windows(self, seconds: float = SECONDS) -> NDArray[np.float64]:
        """Mean distances [windows, 3] of every whole window of time; a part belongs to the window its middle lies in.

        Raises `ValueError` for a video shorter than one window.
        """
        count = (
            round(self.seconds / seconds - 1e-6)
            if self.seconds % seconds > 0.98 * seconds
            else int(self.seconds // seconds)
        )
        if count < 1:
            raise ValueError(f"{self.name}: {self.seconds:.1f} s of video hold no window of {seconds:g} s")
        middles = (np.array(self.ends) + np.array([0.0, *self.ends[:-1]])) / 2
        window = (middles // seconds).astype(int)
        return np.array([np.array(self.distances)[window == number].mean(axis=0) for number in range(count)])

    def ratios(self, seconds: float = SECONDS) -> dict[str, float]:
        """Distance in the last window over that in the second, by measure; NaN for fewer than three windows."""
        windows = self.windows(seconds)
        if len(windows) < 3:
            return dict.fromkeys(MEASURES, float("nan"))
        return {name: float(windows[-1, at] / max(windows[1, at], 1e-6)) for at, name in enumerate(MEASURES)}


def _layout(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean colours [8, 8, 3] in [0, 1] of cells over frames [T, H, W, 3]."""
    mean = frames.mean(axis=0, dtype=np.float32) / 255
    rows = np.array_split(mean, GRID, axis=0)
    return np.stack([[cell.mean(axis=(0, 1)) for cell in np.array_split(row, GRID, axis=1)] for row in rows])


def _corners(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean picture [side, 2 * side, 3] in [0, 1] of the upper corners over frames [T, H, W, 3]."""
    side = max(1, round(CORNER * min(frames.shape[1:3])))
    upper = frames[:, :side]
    both = np.concatenate((upper[:, :, :side], upper[:, :, -side:]), axis=2)
    return both.mean(axis=0, dtype=np.float32) / 255


def plot_drifts(drifts: Sequence[Drift], out: Path) -> None:
    """Every video's distances over its minutes, a panel a measure; writes a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(MEASURES), 1, sharex=True)
    for at, (panel, measure) in enumerate(zip(panels, MEASURES, strict=True)):
        for drift in drifts:
            minutes, values = np.array(drift.ends) / 60, np.array(drift.distances)[:, at]
            (line,) = panel.plot(minutes, values, linewidth=0.5, alpha=0.4)
            panel.plot(minutes, _running_mean(values, 12), color=line.get_color(), label=drift.name)
        panel.set(ylabel=f"{measure} distance", ylim=(0, None))
    panels[0].set_title("Distance from the portrait over time")
    panels[0].legend(loc="upper left")
    panels[-1].set_xlabel("minutes of video")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)


def _running_mean(values: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Of up to `reach` values on either side."""
    sums = np.concatenate(([0.0], values.cumsum()))
    at = np.arange(len(values))
    low, high = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)
