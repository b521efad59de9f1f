"""One viewer: what it does with its session, and what it saw and heard when."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from liveact.v1 import avatar_pb2 as pb2
from liveact_services.client import Moment, RecordedVoice, play
from liveact_services.client.conversation import Conversation, Payload
from liveact_services.client.report import viewer_stalls

Script: TypeAlias = "Callable[[Conversation, Viewing, Feed], Coroutine[Any, Any, None]]"
"""What one viewer says and does."""

HEARD_S = (1.5, 3.5)
"""How much of an utterance a listener hears before interrupting it, from and to."""


@dataclass
class Interrupt:
    """One interrupt at one viewer, in seconds of `time.perf_counter`. What never came is at `asked`."""

    asked: float
    seen: float
    heard: float
    """The last old picture and sound that the SDK showed."""
    plain_seen: float
    plain_heard: float
    """When a player that leaves nothing out would have shown the last of those that came."""


@dataclass
class Viewing:
    """What one viewer took down."""

    opened_at: float = 0.0
    ready_at: float | None = None
    voice_at: float | None = None
    first_frame_at: float | None = None
    first_spoken_at: float | None = None
    fps: int = 20
    rate: int = 24000
    playout_delay_s: float = 0.0
    arrivals: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    samples: int = 0
    sound_lead_s: list[float] = field(default_factory=list)
    """At each message of frames: how far the sound received reaches beyond them."""
    interrupts: list[Interrupt] = field(default_factory=list)
    reconnections: int = 0
    failed: str = ""

    @property
    def frames(self) -> int:
        return sum(self.counts)

    @property
    def stalls(self) -> tuple[int, float]:
        """Of a viewer that buffers as the session says: how often, and seconds in all."""
        return viewer_stalls(self.arrivals, self.counts, self.fps, self.playout_delay_s)

    @property
    def skew_s(self) -> float:
        """At the end: seconds of sound received less seconds of picture, by counting samples and frames."""
        return self.samples / self.rate - self.frames / self.fps

    @property
    def gaps(self) -> np.ndarray:
        """Seconds between messages of frames."""
        return np.diff(self.arrivals)


class Observed(Conversation):
    """A session whose messages are noted as they pass."""

    def __init__(self, inner: Conversation, viewing: Viewing) -> None:
        super().__init__()
        self._inner, self._viewing = inner, viewing
        self.interrupted = inner.interrupted

    @property
    def session(self) -> pb2.Session:
        return self._inner.session

    async def __anext__(self) -> Payload:
        payload = await anext(self._inner)
        self.arrived_at = self._inner.arrived_at
        note = self._viewing
        match payload:
            case pb2.VideoChunk():
                note.arrivals.append(self.arrived_at)
                note.counts.append(len(payload.frames))
                note.first_frame_at = note.first_frame_at or self.arrived_at
                if note.first_spoken_at is None and any(frame.utterance_id for frame in payload.frames):
                    note.first_spoken_at = self.arrived_at
                note.sound_lead_s.append(note.skew_s)
            case pb2.AudioSpan():
                note.samples += len(payload.data) // 2
        return payload


async def watch(session: Conversation, viewing: Viewing, script: Script) -> None:
    """Play the session as the SDK does while `script` speaks and interrupts, until the session ends."""
    agreed = session.session
    viewing.fps, viewing.rate = agreed.fps, agreed.audio_format.sample_rate_hz
    viewing.playout_delay_s = agreed.playout_delay.ToTimedelta().total_seconds()
    feed = Feed()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(script(session, viewing, feed))
        async for item in play(Observed(session, viewing)):
            if isinstance(item, Moment):
                feed.show(item)


class Feed:
    """What is on the viewer's screen, for the script that reacts to it."""

    def __init__(self) -> None:
        self.moments: list[tuple[float, Moment]] = []
        self._shown = asyncio.Event()

    def show(self, moment: Moment) -> None:
        """This is seen and heard now."""
        # Pixels are not kept: a long run would fill the memory.
        bare = Moment(
            moment.index, moment.pts_s, np.zeros(0, np.uint8), moment.sound, moment.utterance_id, moment.stale
        )
        self.moments.append((time.perf_counter(), bare))
        self._shown.set()

    async def follow(self) -> AsyncIterator[tuple[float, Moment]]:
        """Every moment from now on."""
        while True:
            self._shown.clear()
            await self._shown.wait()
            moments, self.moments = self.moments, []
            for item in moments:
                yield item


def speaking(voice: RecordedVoice) -> Script:
    """Say the voice at speaking pace, then close."""

    async def script(session: Conversation, viewing: Viewing, feed: Feed) -> None:
        await session.ready()
        viewing.ready_at = viewing.voice_at = time.perf_counter()
        await session.speak(voice, pace="realtime")
        await session.close()

    return script


def interrupting(voice: RecordedVoice, times: int, seed: int) -> Script:
    """Say the voice, interrupt it somewhere, wait until nothing old comes, and again."""
    draw = random.Random(seed)

    async def script(session: Conversation, viewing: Viewing, feed: Feed) -> None:
        await session.ready()
        for _ in range(times):
            name = await session.speak(voice)
            viewing.interrupts.append(await _interrupt(session, feed, name, draw.uniform(*HEARD_S)))
        await session.close()

    return script


async def _interrupt(session: Conversation, feed: Feed, name: str, after_s: float) -> Interrupt:
    """Interrupt this utterance once so much of it was shown, and follow what comes until it is over."""
    noted: Interrupt | None = None
    heard_s = 0.0
    fps = session.session.fps
    async for at, moment in feed.follow():
        old = moment.utterance_id == name
        if noted is None:
            heard_s += old / fps
            if heard_s >= after_s:
                await session.interrupt()
                now = time.perf_counter()
                noted = Interrupt(now, now, now, now, now)
            continue
        ends = at + 1 / fps
        if old:
            noted.plain_seen = noted.plain_heard = max(noted.plain_seen, ends)
            if not moment.stale:
                noted.seen = max(noted.seen, at)
                if moment.sound.any():
                    noted.heard = max(noted.heard, ends)
        elif moment.index > 0:
            return noted
    raise AssertionError("a feed has no end")
