"""Recordings: videos with their sound, made here or read from files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE = 16000


class RecordingError(RuntimeError):
    """A file that is no video; the message names it."""


@dataclass(frozen=True)
class Recording:
    """Frames [T, H, W, 3] at `fps` and the sound [n] (float32, 16 kHz, mono) that belongs to them."""

    name: str
    frames: NDArray[np.uint8]
    fps: float
    samples: NDArray[np.float32]


def read_recording(path: Path) -> Recording:
    """The first video stream of a file and, where there is one, its first sound stream.

    Raises `RecordingError` for a file that FFmpeg cannot read or that shows no picture.
    """
    import av

    try:
        with open(path, "rb") as file, av.open(file, mode="r") as container:
            if not container.streams.video:
                raise RecordingError(f"{path}: no video stream in the file")
            stream = container.streams.video[0]
            rate = stream.average_rate
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        if not frames or not rate:
            raise RecordingError(f"{path}: the video stream holds no frame")
        return Recording(path.name, np.stack(frames), float(rate), _sound(path))
    except (OSError, ValueError, av.error.FFmpegError) as error:
        raise RecordingError(f"{path}: not a readable video ({getattr(error, 'strerror', None) or error})") from None


def _sound(path: Path) -> NDArray[np.float32]:
    """The sound [n] at 16 kHz; of a silent film nothing."""
    import av

    with open(path, "rb") as file, av.open(file, mode="r") as container:
        if not container.streams.audio:
            return np.zeros(0, np.float32)
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=RATE)
        parts = [part for frame in container.decode(container.streams.audio[0]) for part in resampler.resample(frame)]
        parts += resampler.resample(None)
    return np.concatenate([part.to_ndarray()[0] for part in parts]) if parts else np.zeros(0, np.float32)
