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
from liveact_services.conductor.journal import Journal
from liveact_services.conductor.outputs import Event, Happening, Output, Sound, Video
from liveact_services.conductor.parts import Moved
from liveact_services.conductor.points import Page, Position, State
from liveact_services.conductor.speech import Speech
from liveact_services.conductor.stages import BlockPlan, Idle, Pacing, SessionSpec, Stages, VideoPart
from liveact_services.errors import fail
from liveact_services.observability.tracing import NO_SPAN, TRACING, Span

IN_FLIGHT = 2
"""Blocks unfinished at a time: one is decoded while the next is denoised."""
CATCH_UP_S = 5.0
"""How long a session that goes on elsewhere waits for its client to send again what had been received there."""


@dataclass
class Started:
    """A block on its way through the stages."""

    page: Page
    parts: AsyncIterator[VideoPart]
    at: float
    given: int = 0
    """Frames of it that the client has from elsewhere."""
    again: bool = False
    """Whether another process planned it."""
    span: Span = NO_SPAN
    first_s: float = 0.0
    """Seconds to its first frames."""


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
        journal: Journal | None = None,
    ) -> None:
        """`journal`: where plans go before anything of them is emitted; without one they are lost with this process."""
        self.spec = spec
        self.speech = Speech(spec.rate, spec.fps, max_waiting_s)
        self.clock = PlayClock(spec.fps, now)
        self.delivered_frames = 0
        self.acked_frames = 0
        self.planned_blocks = 0
        self.requests = self.pieces = 0
        """How many requests that act on the performance were taken in, and how many of them were voice."""
        self._stages, self._emit, self._credit, self._journal = stages, emit, credit_frames, journal
        self._loop = IdleLoop() if spec.idle is Idle.LOOP and spec.pacing is Pacing.REALTIME else None
        self._made_blocks = 0
        """Blocks sent through the stages; fewer than planned where idle ones were shown again."""
        self._numbers: deque[tuple[int, int]] = deque(maxlen=4)
        """Of the latest of them, as what they were made and as what they are shown."""
        self._prompts: list[tuple[float, str]] = []
        self._finishing = False
        self._paused = False
        self._begun = State.begun(self.speech.state(0))
        """What an earlier owner left; requests that are in it already come again."""
        self._catch_up_by: float | None = None
        self._resumed_at = 0
        """The frame from which the client went on here: it has those before, shown or not."""
        self._changed = asyncio.Event()
        self._started: asyncio.Queue[Started | Event | None] = asyncio.Queue()
        """Blocks on their way, and events that are to be told after them; None is the end."""

    # ---- what the client wants ---------------------------------------------------------------------------------------------

    def hear(self, utterance: str, samples: np.ndarray) -> None:
        """Voice, float32 [n] at the session's rate. Raises `ServiceError` after `finish`, and as `Speech.hear` does."""
        if self._finishing:
            raise fail("SESSION_ENDED", "voice came after close")
        left = self._begun.position
        placed = left.samples if self.requests == left.request else 0
        self.speech.hear(utterance, samples, self.requests, self.pieces, placed)
        self.pieces += 1
        self._took_in()

    def end_utterance(self, utterance: str) -> None:
        """No more voice in the utterance."""
        self._tell(self.speech.end(utterance, self.requests))
        self._took_in()

    def interrupt(self) -> None:
        """Stop speaking with the first block that is not on its way yet."""
        told = self.speech.interrupt(self.planned_blocks, self.acked_frames)
        self._emit(dataclasses.replace(told, next_request=self.requests + 1))
        self._took_in()

    def update(self, prompt: str, from_s: float) -> None:
        """Another prompt for the blocks that start at or after this media time."""
        # What was received where the session was before has acted, or waits to, though voice before it comes again.
        if self.requests >= self._begun.received:
            self._prompts.append((from_s, prompt))
            self._prompts.sort(key=lambda item: item[0])
        self._took_in()

    def _took_in(self) -> None:
        self.requests += 1
        if self._catch_up_by is not None and self.requests >= self._begun.received:
            self._caught_up()
        self._changed.set()

    def _caught_up(self) -> None:
        self._catch_up_by = None
        if self._begun.finishing:
            self.finish()

    def ack(self, frames: int) -> None:
        """The client has shown this many frames. Raises `ServiceError` beyond what was sent, or backwards."""
        if frames > self.delivered_frames:
            raise fail("ACK_BEYOND_SENT", f"frame {frames} acknowledged, {self.delivered_frames} frames were sent")
        if frames < self.acked_frames:
            raise fail("ACK_BACKWARDS", f"frame {frames} acknowledged after frame {self.acked_frames}")
        self.acked_frames = frames
        self.speech.forget(frames)
        if self._journal is not None:
            self._journal.acked(frames)
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
        return block_frames(self.planned_blocks).stop - max(self.acked_frames, self._resumed_at) > self._credit

    # ---- going on elsewhere ------------------------------------------------------------------------------------------------

    def state(self) -> State:
        """All that planning further depends on, but for voice that waits: that is asked for again."""
        left = self._begun.position
        here = left if self.requests == left.request else Position(self.requests, self.pieces)
        position = self.speech.position or here
        return State(
            position, max(self.requests, self._begun.received), self.planned_blocks, self._made_blocks,
            tuple(self._numbers), tuple(self._prompts), self._finishing or self._begun.finishing, self.acked_frames,
            0 if self._loop is None else self._loop.quiet_blocks, self.speech.state(position.request),
        )  # fmt: skip

    def restore(self, state: State, again: list[Started], frame: int) -> None:
        """Be what another Conductor was, before `run`: it had planned the blocks in `again`, of which the client wants those
        from `frame` on.

        No more is planned before what it had taken in has come again, or `CATCH_UP_S` have passed.
        """
        self._begun, self._resumed_at = state, frame
        self.requests, self.pieces = state.position.request, state.position.piece
        self.planned_blocks, self._made_blocks = state.planned, state.made
        self._numbers.extend(state.numbers)
        self._prompts = list(state.prompts)
        self.acked_frames, self.delivered_frames = min(state.acked, frame), frame
        self.speech.restore(state.speech)
        if self._loop is not None:
            self._loop.begin_again(state.quiet)
        self.clock.go_on(frame, block_of_frame(frame))
        for one in again:
            self._started.put_nowait(one)
        self._catch_up_by = self.clock.now() + CATCH_UP_S
        if self.requests >= state.received:
            self._caught_up()

    @property
    def behind(self) -> bool:
        """Whether blocks that were planned have not been delivered to their end."""
        return self.delivered_frames < (block_frames(self.planned_blocks - 1).stop if self.planned_blocks else 0)

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
            self._started.put_nowait(self._start(block))

    def _start(self, block: int) -> Started:
        planned = self.speech.plan(block)
        self.planned_blocks += 1
        prompt = self._prompt_for(block)
        applied = () if prompt is None else (self._applied(block, prompt),)
        now, made = self.clock.now(), self._made_blocks
        idle = self._idle(block, planned.utterances, prompt)
        plan, span = None, NO_SPAN
        if isinstance(idle, AsyncIterator):
            parts: AsyncIterator[VideoPart] = idle
        else:
            due_s = None if self.spec.pacing is Pacing.FASTEST else self.clock.due_s(block)
            span = TRACING.block(self.spec.trace, block, session=self.spec.session, due_s=due_s or 0.0)
            plan = BlockPlan(made, planned.voice, prompt, due_s, backward=idle is not None, trace=span.trace)
            self._made_blocks += 1
            self._numbers.append((made, block))
            parts = self._stages.submit(plan)
            parts = parts if made == block else moved(parts, made, block)
            parts = parts if idle is None else idle.keeping(parts)
        events = planned.events + applied
        page = Page(block, made, plan, planned.sound, events, planned.utterances, self.state())
        if self._journal is not None and plan is not None:
            # Written while the block is made.
            self._journal.note(page)
        return Started(page, parts, now, span=span)

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
        self, block: int, utterances: tuple[str, ...], prompt: str | None
    ) -> ClipBlock | AsyncIterator[VideoPart] | None:
        """What LOOP does with the block: keeps it, shows others in its place, or, as every other policy, nothing."""
        if self._loop is None:
            return None
        if prompt is not None:
            self._loop.forget()
        # Voice right behind the block is heard in it already.
        if any(utterances) or self.speech.covers(block + 1):
            self._loop.spoken()
            return None
        return self._loop.quiet(block)

    async def _deliver(self, room: asyncio.Semaphore) -> None:
        while (one := await self._started.get()) is not None:
            if isinstance(one, Event):
                self._emit(one)
                continue
            try:
                await self._deliver_block(one)
            except BaseException as error:
                one.span.end(error)
                raise
            one.span.end(first_frames_s=one.first_s)
            if not one.again:
                room.release()

    async def _deliver_block(self, one: Started) -> None:
        page, given = one.page, one.given
        async for part in await self._shown_again(one) if page.plan is None else one.parts:
            if given == one.given:
                await self._begin(one, part)
            spoken = page.utterances[given : given + len(part.frames)]
            given += len(part.frames)
            self.delivered_frames += len(part.frames)
            self._emit(Video(part, spoken))

    async def _begin(self, one: Started, part: VideoPart) -> None:
        """A block's first frames are there: emit what comes before them."""
        page, sure = one.page, one.page.state.position
        one.first_s = self.clock.now() - one.at
        if self._journal is not None:
            with TRACING.span("journal", one.span.trace):
                await self._journal.written(page.block)
            sure = self._journal.position
        # Of a block that the client has begun with it has the events too.
        for event in page.events if one.given == 0 else ():
            self._emit(event)
        self._emit(Sound(page.block, page.sound.at_s, page.sound.samples, sure.request))
        if page.plan is None or one.again:
            self.clock.sent(page.block)
        else:
            self.clock.delivered(page.block, one.at, part.times.decode_s + part.times.encode_s)
        self._changed.set()

    async def _shown_again(self, one: Started) -> AsyncIterator[VideoPart]:
        """The parts of a block that is only shown again, once its page is complete: it has the frames in it."""
        if self._journal is None or one.again:
            return one.parts
        parts = [part async for part in one.parts]
        frames = tuple(frame for part in parts for frame in part.frames)
        self._journal.note(dataclasses.replace(one.page, frames=frames))
        return _each(parts)

    async def _time_for(self, block: int) -> bool:
        """Wait until the block is to be started; False when there is to be no more."""
        while True:
            self._changed.clear()
            if self._catch_up_by is not None and self.clock.now() >= self._catch_up_by:
                self._caught_up()
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
        if self._catch_up_by is not None:
            return max(self._catch_up_by - self.clock.now(), 1e-3)
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


async def _each(parts: list[VideoPart]) -> AsyncIterator[VideoPart]:
    for part in parts:
        yield part
