"""Suite `drift`: is the face of the last minute still the portrait's?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from liveact_models.evaluate.contenders import Contender, Rendered
from liveact_models.evaluate.drift import MEASURES, SECONDS, Drift, plot_drifts
from liveact_models.evaluate.judge import Judge
from liveact_models.evaluate.sheet import write_sheet
from liveact_models.evaluate.suites.result import Progress, Row, SuiteResult, quiet
from liveact_models.evaluate.suites.scenes import FIRST_SEED, SPLIT
from liveact_models.timeline import blocks_for_frames
from liveact_models.world.clip import FPS, make_clip

MINUTE_SHOTS = 10
"""Frames of a video that the sheet shows, evenly spread over its length."""


def drift_suite(
    contenders: Sequence[Contender],
    minutes: float,
    judge: Judge,
    out: Path,
    *,
    size: int = 128,
    seed: int = FIRST_SEED,
    window_s: float = SECONDS,
    progress: Progress = quiet,
) -> SuiteResult:
    """The truth and every contender perform one long clip; each row has a video's distances from its portrait.

    A row's ratios are the last window's distances over the second's. Frames are looked at as they come and not kept.
    Raises `ValueError` for a clip shorter than one window.
    """
    clip = make_clip(seed, round(minutes * 60 * FPS), SPLIT, size, asked=[(0, "neutral", "none")])
    portrait, blocks = clip.portrait(), blocks_for_frames(clip.length)
    keep = {round(number * (blocks - 1) / (MINUTE_SHOTS - 1)) for number in range(MINUTE_SHOTS)}
    drifts, shots, rows = [], [], []
    for contender in (Rendered(), *contenders):
        drift = Drift(contender.name, FPS, judge, portrait)
        kept = []
        for block, frames in enumerate(contender.perform(clip)):
            drift.add(frames)
            if block in keep:
                kept.append(frames[-1])
            progress(contender.name, block + 1, blocks)
        drifts.append(drift)
        shots.append((contender.name, kept))
        rows.append(_row(drift, window_s))
    plot_drifts(drifts, out / "drift.png")
    sheet = write_sheet(shots, out / "drift-frames.png", f"{minutes:g} minutes, evenly spread")
    settings = {"minutes": minutes, "size": size, "seed": seed, "window_s": window_s}
    return SuiteResult("drift", rows, settings, [out / "drift.png", sheet])


def _row(drift: Drift, window_s: float) -> Row:
    windows, ratios = drift.windows(window_s), drift.ratios(window_s)
    row: Row = {"contender": drift.name, "windows": len(windows)}
    for at, measure in enumerate(MEASURES):
        row |= {
            f"{measure} 2nd": float(windows[min(1, len(windows) - 1), at]),
            f"{measure} last": float(windows[-1, at]),
        }
        row[f"{measure} ratio"] = ratios[measure]
    return row
