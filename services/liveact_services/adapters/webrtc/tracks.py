"""What the viewer receives: the session's frames and sound, when they are due, on one media clock."""

from __future__ import annotations

import asyncio
from fractions import Fraction

import numpy as np
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame, VideoFrame
from av.frame import Frame

from liveact_services.client import Moment

VIDEO_CLOCK = 90_000
"""Ticks a second of a picture's time, as RTP counts them."""
PACKET_S = 0.02
"""Of sound, in each frame: what Opus takes at once."""
BEHIND_S = 1.0
"""Media that waits for a slow sender before the oldest is left out."""


class Outlet(MediaStreamTrack):
    """A track fed by `put`; what nobody takes within `BEHIND_S` is left out, so that the viewer stays on the clock."""

    def __init__(self, kind: str, frames_per_s: float) -> None:
        super().__init__()
        self.kind = kind
        self._queue: asyncio.Queue[Frame | None] = asyncio.Queue()
        self._most = max(1, round(BEHIND_S * frames_per_s))
        self.left_out = 0

    def put(self, frame: Frame) -> None:
        """The next frame, due now."""
        while self._queue.qsize() >= self._most:
            self._queue.get_nowait()
            self.left_out += 1
        self._queue.put_nowait(frame)

    def end(self) -> None:
        """Nothing follows."""
        self._queue.put_nowait(None)

    async def recv(self) -> Frame:
        if self.readyState != "live":
            raise MediaStreamError
        frame = await self._queue.get()
        if frame is None:
            self.stop()
            raise MediaStreamError
        return frame


class Show:
    """A session's two outlets. The time stamps of both count from its first frame, so that a viewer can keep them together."""

    def __init__(self, fps: int, rate: int) -> None:
        self.video, self.sound = Outlet("video", fps), Outlet("audio", 1 / PACKET_S)
        self._rate, self._packet = rate, round(rate * PACKET_S)
        self._waiting = np.zeros(0, np.int16)
        self._at: int | None = None
        """Position of the first sample that waits."""

    def put(self, moment: Moment) -> None:
        """A frame and its sound."""
        picture = VideoFrame.from_ndarray(np.ascontiguousarray(moment.pixels), format="rgb24")
        picture.pts, picture.time_base = round(moment.pts_s * VIDEO_CLOCK), Fraction(1, VIDEO_CLOCK)
        self.video.put(picture)
        if self._at is None:
            self._at = round(moment.pts_s * self._rate)
        self._waiting = np.concatenate([self._waiting, moment.sound])
        while len(self._waiting) >= self._packet:
            self.sound.put(self._frame(self._waiting[: self._packet]))
            self._waiting, self._at = self._waiting[self._packet :], self._at + self._packet

    def end(self) -> None:
        self.video.end()
        self.sound.end()

    def _frame(self, samples: np.ndarray) -> AudioFrame:
        frame = AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = self._rate, self._at, Fraction(1, self._rate)
        return frame
