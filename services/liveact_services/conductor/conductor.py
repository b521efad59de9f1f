"""The Conductor: decides when each block is made and of what, sends it through the stages, and passes on what comes out."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from liveact_models.timeline import BLOCK_FRAMES, block_frames, block_of_frame
from liveact_services.conductor.clock import PlayClock
from liveact_services.conductor.idle_loop import ClipBlock, IdleLoop, moved
from liveact_services.conductor.outputs import Event, Happening, Output, Video
from liveact_services.conductor.parts import Moved
from liveact_services.conductor.speech import PlannedSound, Speech
from liveact_services.conductor.stages import BlockPlan, Idle, Pacing, SessionSpec, Stages, VideoPart
from liveact_services.errors import fail

IN_FLIGHT = 2
"""Blocks unfinished at a time: one is decoded while the next is denoised."""


@dataclass
class _Started:
    """A block on its way through the stages."""

    block: int
    planned: PlannedSound
    events: tuple[Event, ...]
    parts: AsyncIterator[VideoPart]
    at: float
    made: bool = True
    """False for one that is only shown again."""


class Conductor:
    """One session's performance.

    `run` makes blocks until `finish` was called and all voice is spoken; the verbs around it say what the client wants. Every
    output goes to `emit`, in the order the client is to see it.
    """

    def __init__(
        self,
        spec: SessionSpec,
        stages: Stages,
        emit: Callable[[Output], None],
        *,
        credit_frames: int,
        max_waiting_s: float = float("inf"),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self.speech = Speech(spec.rate, spec.fps, max_waiting_s)
        self.clock = PlayClock(spec.fps, now)
        self.delivered_frames = 0
        self.acked_frames = 0
        self.planned_blocks = 0
        self._stages, self._emit, self._credit = stages, emit, credit_frames
        self._loop = IdleLoop() if spec.idle is Idle.LOOP and spec.pacing is Pacing.REALTIME else None
        self._made_blocks = 0
        """Blocks sent through the stages; fewer than planned where idle ones were shown again."""
        self._numbers: deque[tuple[int, int]] = deque(maxlen=4)
        """Of the latest of them, as what they were made and as what they are shown."""
        self._prompts: list[tuple[float, str]] = []
        self._finishing = False
        self._paused = False
        self._changed = asyncio.Event()
        self._started: asyncio.Queue[_Started | Event | None] = asyncio.Queue()
        """Blocks on their way, and events that are to be told after them; None is the end."""

    # ---- what the client wants ---------------------------------------------------------------------------------------------

    def hear(self, utterance: str, samples: np.ndarray) -> None:
        """Voice, float32 [n] at the session's rate. Raises `ServiceError` after `finish`, and as `Speech.hear` does."""
        if self._finishing:
            raise fail("SESSION_ENDED", "voice came after close")
        self.speech.hear(utterance, samples)
        self._changed.set()

    def end_utterance(self, utterance: str) -> None:
        """No more voice in the utterance."""
        self._tell(self.speech.end(utterance))

    def interrupt(self) -> None:
        """Stop speaking with the first block that is not on its way yet."""
        self._emit(self.speech.interrupt(self.planned_blocks, self.acked_frames))
        self._changed.set()

    def update(self, prompt: str, from_s: float) -> None:
        """Another prompt for the blocks that start at or after this media time."""
        self._prompts.append((from_s, prompt))
        self._prompts.sort(key=lambda item: item[0])

    def ack(self, frames: int) -> None:
        """The client has shown this many frames. Raises `ServiceError` beyond what was sent, or backwards."""
        if frames > self.delivered_frames:
            raise fail("ACK_BEYOND_SENT", f"frame {frames} acknowledged, {self.delivered_frames} frames were sent")
        if frames < self.acked_frames:
            raise fail("ACK_BACKWARDS", f"frame {frames} acknowledged after frame {self.acked_frames}")
        self.acked_frames = frames
        self.speech.forget(frames)
        self._changed.set()

    def finish(self) -> None:
        """Speak what waits, then end."""
        self._finishing = True
        self._tell(self.speech.end_all())

    def pause(self, paused: bool) -> None:
        """Start no blocks while nobody watches."""
        self._paused = paused
        self._changed.set()

    def _tell(self, event: Event | None) -> None:
        """Emit the event after all that is on its way."""
        if event is not None:
            self._started.put_nowait(event)
        self._changed.set()

    @property
    def out_of_credit(self) -> bool:
        """Whether nothing can go on before the client acknowledges more."""
        return block_frames(self.planned_blocks).stop - self.acked_frames > self._credit

    # ---- making blocks -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Make blocks until the end. Raises what a stage raised."""
        room = asyncio.Semaphore(IN_FLIGHT)
        delivery = asyncio.create_task(self._deliver(room))
        planning = asyncio.create_task(self._start_blocks(room))
        try:
            await asyncio.wait({delivery, planning}, return_when=asyncio.FIRST_EXCEPTION)
            for task in (delivery, planning):
                if task.done():
                    task.result()
        finally:
            for task in (delivery, planning):
                task.cancel()
            await asyncio.gather(delivery, planning, return_exceptions=True)

    async def _start_blocks(self, room: asyncio.Semaphore) -> None:
        while True:
            await room.acquire()
            block = self.planned_blocks
            if not await self._time_for(block):
                self._started.put_nowait(None)
                return
            planned = self.speech.plan(block)
            self.planned_blocks += 1
            self._started.put_nowait(self._start(block, planned))

    def _start(self, block: int, planned: PlannedSound) -> _Started:
        prompt = self._prompt_for(block)
        applied = () if prompt is None else (self._applied(block, prompt),)
        events, now = planned.events + applied, self.clock.now()
        idle = self._idle(block, planned, prompt)
        if isinstance(idle, AsyncIterator):
            return _Started(block, planned, events, idle, now, made=False)
        made, self._made_blocks = self._made_blocks, self._made_blocks + 1
        due_s = None if self.spec.pacing is Pacing.FASTEST else self.clock.due_s(block)
        parts = self._stages.submit(BlockPlan(made, planned.voice, prompt, due_s, backward=idle is not None))
        self._numbers.append((made, block))
        if made != block:
            parts = moved(parts, made, block)
        return _Started(block, planned, events, parts if idle is None else idle.keeping(parts), now)

    def as_shown(self, move: Moved) -> Moved:
        """The same, counted in what is shown: the stages do not know of blocks that are shown again."""
        last, first = self._shift(move.block), self._shift(block_of_frame(move.frame))
        return dataclasses.replace(move, block=move.block + last, frame=move.frame + first * BLOCK_FRAMES)

    def _shift(self, made: int) -> int:
        """How many blocks later a made block is shown than it would be if every block were made."""
        if made >= self._made_blocks:
            return self.planned_blocks - self._made_blocks
        return next((shown - number for number, shown in reversed(self._numbers) if number <= made), 0)

    def _idle(
        self, block: int, planned: PlannedSound, prompt: str | None
    ) -> ClipBlock | AsyncIterator[VideoPart] | None:
        """What LOOP does with the block: keeps it, shows others in its place, or, as every other policy, nothing."""
        if self._loop is None:
            return None
        if prompt is not None:
            self._loop.forget()
        # Voice right behind the block is heard in it already.
        if any(planned.utterances) or self.speech.covers(block + 1):
            self._loop.spoken()
            return None
        return self._loop.quiet(block)

    async def _deliver(self, room: asyncio.Semaphore) -> None:
        while (one := await self._started.get()) is not None:
            if isinstance(one, Event):
                self._emit(one)
                continue
            sent = 0
            async for part in one.parts:
                if sent == 0:
                    for event in one.events:
                        self._emit(event)
                    self._emit(one.planned.sound)
                    if one.made:
                        self.clock.delivered(one.block, one.at, part.times.decode_s + part.times.encode_s)
                    else:
                        self.clock.sent(one.block)
                    self._changed.set()
                spoken = one.planned.utterances[sent : sent + len(part.frames)]
                sent += len(part.frames)
                self.delivered_frames += len(part.frames)
                self._emit(Video(part, spoken))
            room.release()

    async def _time_for(self, block: int) -> bool:
        """Wait until the block is to be started; False when there is to be no more."""
        while True:
            self._changed.clear()
            if self._finishing and not self.speech.speaking and not self.speech.covers(block):
                return False
            wait = self._wait_for(block)
            if wait <= 0:
                return True
            # Not wait_for: it swallows a cancellation that comes together with the change (Python 3.11).
            with suppress(TimeoutError):
                async with asyncio.timeout(None if wait == float("inf") else wait):
                    await self._changed.wait()

    def _wait_for(self, block: int) -> float:
        """Seconds until the block may be started as things stand; inf: something has to change first."""
        if self._paused or self.out_of_credit:
            return float("inf")
        speech = self.speech
        known = self._finishing or speech.complete(block) or (speech.covers(block) and not speech.speaking)
        if self.spec.pacing is Pacing.FASTEST:
            return 0.0 if known else float("inf")
        moment = self.clock.now()
        if (early := self.clock.earliest(block) - moment) > 0:
            return early
        if known:
            return 0.0
        if self.spec.idle is Idle.HOLD:
            return float("inf")
        return self.clock.latest(block) - moment

    def _prompt_for(self, block: int) -> str | None:
        """The latest prompt that is due at the block's start, if one is."""
        # Half a microsecond: a client names a block's start by a pts, which is in whole ones.
        start = block_frames(block).start / self.spec.fps + 0.5e-6
        due = [prompt for at, prompt in self._prompts if at <= start]
        self._prompts = self._prompts[len(due) :]
        return due[-1] if due else None

    def _applied(self, block: int, prompt: str) -> Event:
        at = block_frames(block).start / self.spec.fps
        return Event(Happening.PROMPT_APPLIED, at, block=block, message=prompt)
