"""A session as its viewer has it: decoded frames, each with its sound, one after the other when they are due."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np

from liveact.v1 import avatar_pb2 as pb2
from liveact_services.client.conversation import Conversation
from liveact_services.client.decoder import FrameDecoder
from liveact_services.client.voice import SAMPLE_BYTES, Pace

MICROSECONDS = 1_000_000
ON_THE_CLOCK = frozenset(
    {
        pb2.EVENT_TYPE_SPEECH_STARTED, pb2.EVENT_TYPE_SPEECH_ENDED, pb2.EVENT_TYPE_PROMPT_APPLIED, pb2.EVENT_TYPE_IDLE,
        pb2.EVENT_TYPE_UNDERRUN,
    }
)  # fmt: skip
"""Events of a moment in the performance: they are told when the viewer is there."""


@dataclass(frozen=True)
class Moment:
    """One frame and the sound that belongs to it."""

    index: int
    """Counts the session's frames from 0."""
    pts_s: float
    """Media time in seconds."""
    pixels: np.ndarray
    """uint8 [H, W, 3], RGB."""
    sound: np.ndarray
    """int16 [about rate / fps], mono."""
    utterance_id: str
    """The utterance spoken in it; "" while nobody speaks."""
    stale: bool
    """What was made for this time belongs to an utterance that was interrupted: the last picture stands, in silence."""


async def play(
    session: Conversation, *, pace: Pace = "realtime", delay_s: float | None = None
) -> AsyncIterator[Moment | pb2.Event]:
    """The session's frames with their sound and its events, in the order of the media clock, until it ends.

    "realtime" gives each frame when it is due: the first one `delay_s` (default: the session's `playout_delay`) after it
    came, and later ones 1 / fps apart; one that is late stops the picture. "fastest" gives them as they come. Frames and
    sound of interrupted utterances are left out from the next frame on: the last picture stands until newer ones are due.
    Frames are acknowledged as they are taken, so a slow taker slows the server down. Raises as iterating the session does,
    and `MediaError`.
    """
    agreed = session.session
    decoder = FrameDecoder(agreed.codec, agreed.width, agreed.height)
    sounds = Sounds(agreed.audio_format.sample_rate_hz, agreed.fps)
    clock = ViewerClock(agreed.fps, agreed.playout_delay.ToTimedelta().total_seconds() if delay_s is None else delay_s)
    waiting: deque[pb2.Event] = deque()
    shown_us, standing = 0, np.zeros((agreed.height, agreed.width, 3), np.uint8)
    async for message in session:
        match message:
            case pb2.AudioSpan():
                sounds.add(message)
            case pb2.Event() if message.type not in ON_THE_CLOCK or message.pts_us <= shown_us:
                yield message
            case pb2.Event():
                waiting.append(message)
            case pb2.VideoChunk():
                pictures = await asyncio.to_thread(lambda chunk: [decoder.decode(f) for f in chunk.frames], message)
                for frame, picture in zip(message.frames, pictures, strict=True):
                    if pace == "realtime":
                        await clock.wait(frame.index, session.arrived_at)
                    while waiting and waiting[0].pts_us <= frame.pts_us:
                        yield waiting.popleft()
                    sound = sounds.take(frame.index)
                    stale = frame.utterance_id in session.interrupted
                    standing = standing if stale else picture
                    shown_us = frame.pts_us + MICROSECONDS // agreed.fps
                    yield Moment(
                        frame.index, frame.pts_us / MICROSECONDS, standing, np.zeros_like(sound) if stale else sound,
                        frame.utterance_id, stale,
                    )  # fmt: skip
                while waiting and waiting[0].pts_us <= shown_us:
                    yield waiting.popleft()
    for event in waiting:
        yield event


class Sounds:
    """The sound received, handed out frame by frame; what did not come is silence."""

    def __init__(self, rate: int, fps: int) -> None:
        self._rate, self._fps = rate, fps
        self._samples = np.zeros(0, np.int16)
        self._start = 0
        """Position of the first sample held."""

    def add(self, span: pb2.AudioSpan) -> None:
        """The next stretch, in order."""
        at = round(span.pts_us * self._rate / MICROSECONDS)
        samples = np.frombuffer(span.data[: len(span.data) // SAMPLE_BYTES * SAMPLE_BYTES], "<i2")
        if not len(self._samples):
            self._start = max(self._start, at)
        end = self._start + len(self._samples)
        hole = np.zeros(max(0, at - end), np.int16)
        self._samples = np.concatenate([self._samples, hole, samples[max(0, end - at) :]])

    def take(self, frame: int) -> np.ndarray:
        """int16: the samples of this frame; those before are dropped."""
        first, last = (round(n * self._rate / self._fps) for n in (frame, frame + 1))
        before = min(max(0, self._start - first), last - first)
        skip = max(0, first - self._start)
        taken = self._samples[skip : skip + last - first - before]
        self._samples = self._samples[skip + len(taken) :]
        self._start = max(self._start, last)
        after = last - first - before - len(taken)
        return np.concatenate([np.zeros(before, np.int16), taken, np.zeros(after, np.int16)])


class ViewerClock:
    """When a viewer shows each frame, in seconds of `time.perf_counter`."""

    def __init__(self, fps: int, delay_s: float) -> None:
        self._fps, self._delay_s = fps, delay_s
        self._origin: float | None = None
        self.stalls = 0
        """Times the picture stood because a frame was late."""

    async def wait(self, frame: int, arrived_at: float) -> None:
        """Until this frame is due. Called for every frame in order."""
        now = time.perf_counter()
        if self._origin is None:
            self._origin = arrived_at + self._delay_s - frame / self._fps
        due = self._origin + frame / self._fps
        if now > due + 1 / self._fps:
            self.stalls += 1
            # Everything after is shown later, as the server reckons too.
            self._origin += now - due
            return
        if due > now:
            await asyncio.sleep(due - now)
