"""The invisible mark out of a video file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from liveact_services.watermark.mark import votes
from liveact_services.watermark.payload import digits

FRAMES = 600
"""As many are looked at: half a minute."""


@dataclass(frozen=True)
class Found:
    """A mark that was read."""

    session: str
    """The first digits of the session's id."""
    strength: float
    """How sure the votes are, on the mean of all bits: 1 as it was put in, near 0 where nothing is."""
    frames: int
    """That were looked at."""


def read(path: Path) -> Found | None:
    """The mark in the file's video; None where there is none that holds. Raises `ValueError` for what is no video."""
    total, frames = None, 0
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                said = votes(frame.to_ndarray(format="rgb24"))
                total = said if total is None else total + said
                frames += 1
                if frames == FRAMES:
                    break
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"{path}: no video ({error}); accepted is a recording") from None
    return None if total is None else found_in(total / frames, frames)


def found_in(said: np.ndarray, frames: int) -> Found | None:
    """What mean votes say, [56]."""
    session = digits(said)
    return None if session is None else Found(session, round(float(np.abs(said).mean()), 3), frames)
