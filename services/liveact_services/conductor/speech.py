"""Where utterances stand on the media clock.

Voice waits in a queue until the block that will speak it is planned; only then is it written to the session's `VoiceBuffer`.
So an interrupt has little to take back, and voice that comes at speaking pace can be placed as late in a block as it must be
and no later.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from liveact_models.timeline import block_frames, block_sound_frames
from liveact_models.voice import BlockVoice, VoiceBuffer
from liveact_services.conductor.outputs import Event, Happening, Sound
from liveact_services.conductor.points import Position, SpeechState
from liveact_services.errors import fail

CUSHION_S = 0.1
"""Voice held back when an utterance starts while it is still being spoken: how late its next piece may come."""


@dataclass
class Piece:
    """Voice as it came, and what of it waits."""

    samples: np.ndarray
    request: int
    """Number of the request it came with, and among the pieces of voice its own."""
    number: int
    placed: int = 0
    """Samples of it that wait no more."""


@dataclass
class Utterance:
    """One utterance's voice that has not been placed yet."""

    name: str
    pieces: deque[Piece] = field(default_factory=deque)
    waiting: int = 0
    """Samples in `pieces`."""
    ended: bool = False
    flowing: bool = False
    """Its voice reaches the end of what is written: the next piece follows on without a gap."""
    placed: bool = False

    def take(self, count: int) -> np.ndarray:
        """Up to `count` samples from the front."""
        taken: list[np.ndarray] = []
        while count > 0 and self.pieces:
            piece = self.pieces[0]
            taken.append(piece.samples[piece.placed : piece.placed + count])
            piece.placed += len(taken[-1])
            count -= len(taken[-1])
            if piece.placed == len(piece.samples):
                self.pieces.popleft()
        joined = np.concatenate(taken) if taken else np.zeros(0, np.float32)
        self.waiting -= len(joined)
        return joined


@dataclass
class Span:
    """Samples [start, stop) of the session's clock in which an utterance is spoken."""

    utterance: str
    start: int
    stop: int
    before: int = 0
    """Samples of the utterance in spans that were shown and forgotten."""


@dataclass(frozen=True)
class PlannedSound:
    """A block's sound, and what happens in it."""

    voice: BlockVoice
    sound: Sound
    events: tuple[Event, ...]
    utterances: tuple[str, ...]
    """The utterance spoken in each of the block's frames, "" for none."""


class Speech:
    """A session's utterances, waiting and placed. Positions are samples at `rate` from the session's first frame."""

    def __init__(self, rate: int, fps: int, max_waiting_s: float = float("inf")) -> None:
        self.rate, self.fps = rate, fps
        self._buffer = VoiceBuffer(rate, fps)
        self._queue: deque[Utterance] = deque()
        self._names: dict[str, int] = {}
        """Every utterance there was, with the request it came with."""
        self._dropped: set[str] = set()
        """Those an interrupt cut off before they had ended: voice of theirs may still be under way, and is dropped."""
        self._ended_late: list[tuple[int, str]] = []
        """Of those, the ones that have ended since, with the request that said so."""
        self._spans: deque[Span] = deque()
        self._max_waiting = max_waiting_s * rate
        self._idle = True

    # ---- what the client sends ---------------------------------------------------------------------------------------------

    def hear(self, name: str, samples: np.ndarray, request: int = 0, number: int = 0, placed: int = 0) -> None:
        """Voice of an utterance, float32 [n]. Raises `ServiceError` when utterances interleave or too much waits.

        It came as piece `number` with that request: what `position` counts. Of one that comes again `placed` samples were placed
        before.
        """
        new = len(samples) - placed
        if name in self._dropped or new <= 0:
            return
        if self.waiting + new > self._max_waiting:
            raise fail(
                "VOICE_BACKLOG_FULL", f"more than {self._max_waiting / self.rate:.0f} s of voice wait to be spoken"
            )
        current = self._queue[-1] if self._queue and not self._queue[-1].ended else None
        if current is None or current.name != name:
            if name in self._names:
                raise fail("UTTERANCE_ENDED", f"utterance {name!r} was ended before; each needs a name of its own")
            if current is not None:
                raise fail("UTTERANCE_INTERLEAVED", f"utterance {name!r} starts while {current.name!r} has not ended")
            current = Utterance(name)
            self._queue.append(current)
            self._names[name] = request
        current.pieces.append(Piece(samples, request, number, placed))
        current.waiting += new

    def end(self, name: str, request: int = 0) -> Event | None:
        """No more voice in this utterance.

        Gives SPEECH_ENDED when all its voice is placed already, so that no block need be made to say so, and a NOTICE for an
        utterance without voice. Raises `ServiceError` for one that has ended.
        """
        if name in self._dropped:
            self._dropped.discard(name)
            self._ended_late.append((request, name))
            return None
        if name not in self._names:
            self._names[name] = request
            return Event(Happening.NOTICE, self._now, name, reason="UTTERANCE_EMPTY",
                         message=f"utterance {name!r} ended without a sample of voice")  # fmt: skip
        if not self._queue or self._queue[-1].name != name or self._queue[-1].ended:
            raise fail("UTTERANCE_ENDED", f"utterance {name!r} was ended before")
        return self._end_last()

    def end_all(self) -> Event | None:
        """The client is done: what waits is all there will be. Gives SPEECH_ENDED as `end` does."""
        return self._end_last() if self._queue else None

    def _end_last(self) -> Event | None:
        last = self._queue[-1]
        last.ended = True
        return None if last.waiting else self._ended(self._queue.pop())

    def interrupt(self, next_block: int, shown_frames: int) -> Event:
        """Drop all voice that no planned block holds.

        `next_block` is the first block not planned, `shown_frames` what the client has acknowledged.
        """
        cut = self._buffer.boundary(block_frames(next_block).start)
        current = self._queue[0].name if self._queue else (self._spans[-1].utterance if self._spans else "")
        shown = min(self._buffer.boundary(shown_frames), cut)
        played = sum(s.before + max(0, min(s.stop, shown) - s.start) for s in self._spans if s.utterance == current)
        dropped = self.waiting
        kept: deque[Span] = deque()
        for span in self._spans:
            dropped += max(0, span.stop - max(span.start, cut))
            if span.start < cut:
                kept.append(dataclasses.replace(span, stop=min(span.stop, cut)))
        self._spans = kept
        self._dropped.update(u.name for u in self._queue if not u.ended)
        self._ended_late.clear()
        self._queue.clear()
        if self._buffer.written > cut:
            self._buffer.truncate(block_frames(next_block).start)
        return Event(
            Happening.INTERRUPTED, shown / self.rate, utterance=current, block=next_block,
            played_s=played / self.rate, discarded_s=dropped / self.rate,
        )  # fmt: skip

    # ---- what the Conductor asks -------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Samples not placed yet."""
        return sum(u.waiting for u in self._queue)

    @property
    def speaking(self) -> bool:
        """Whether voice waits, or an utterance has not ended."""
        return bool(self._queue)

    def covers(self, next_block: int) -> bool:
        """Whether voice was written that no block before this one has spoken."""
        return bool(self._spans) and self._spans[-1].stop > self._buffer.boundary(block_frames(next_block).start)

    def complete(self, block: int) -> bool:
        """Whether all the sound the block hears is known, down to its last sample."""
        if self._queue and self._queue[-1].ended:
            return True
        return bool(self._queue) and self._buffer.written + self.waiting >= self._end(block)

    def plan(self, block: int) -> PlannedSound:
        """Write the block's sound, from what waits, and silence where nothing does; then cut it out.

        An utterance that is still being spoken and cannot fill the block starts so late in it that the voice at hand, less a
        cushion, just reaches its end; if it was flowing already it runs dry, and goes on in the same way.
        """
        end = self._end(block)
        events: list[Event] = []
        while self._buffer.written < end:
            utterance = self._queue[0] if self._queue else None
            if utterance is None:
                self._silence(end - self._buffer.written)
            elif utterance.waiting == 0 and utterance.ended:
                events.append(self._ended(self._queue.popleft()))
            elif not utterance.flowing and not self.complete(block):
                self._start_late(utterance, end, events)
            elif utterance.waiting == 0:
                events.append(Event(Happening.UNDERRUN, self._now, utterance.name, block))
                utterance.flowing = False
                self._silence(end - self._buffer.written)
            else:
                self._place(utterance, end - self._buffer.written, events)
        if self._queue and self._queue[0].ended and self._queue[0].waiting == 0:
            events.append(self._ended(self._queue.popleft()))
        return self._cut(block, events)

    # ---- going on elsewhere ------------------------------------------------------------------------------------------------

    @property
    def position(self) -> Position | None:
        """The first piece of voice that is not wholly placed; None when none waits."""
        piece = next((piece for utterance in self._queue for piece in utterance.pieces), None)
        return None if piece is None else Position(piece.request, piece.number, piece.placed)

    def state(self, request: int) -> SpeechState:
        """All this has become of the requests before that one, at `position`, and of what is placed of that one."""
        head = self._queue[0] if self._queue and self._queue[0].placed else None
        names = [name for name, came in self._names.items() if came < request or (head and name == head.name)]
        self._ended_late = [late for late in self._ended_late if late[0] >= request]
        spans = tuple((span.utterance, span.start, span.stop, span.before) for span in self._spans)
        dropped = sorted(self._dropped.union(name for _, name in self._ended_late))
        return SpeechState(
            self._buffer.snapshot(), spans, tuple(names), tuple(dropped), self._idle,
            None if head is None else head.name, head is not None and head.flowing,
        )  # fmt: skip

    def restore(self, state: SpeechState) -> None:
        """Go on from there; what waited comes again. Raises `ValueError` for a buffer that does not fit."""
        self._buffer = VoiceBuffer.restore(state.buffer)
        self._names, self._dropped = dict.fromkeys(state.names, -1), set(state.dropped)
        self._spans, self._idle = deque(Span(*span) for span in state.spans), state.idle
        if state.head is not None:
            self._queue.append(Utterance(state.head, flowing=state.flowing, placed=True))

    # ---- placing -----------------------------------------------------------------------------------------------------------

    def _start_late(self, utterance: Utterance, end: int, events: list[Event]) -> None:
        room = end - self._buffer.written
        spoken = min(room, max(0, self.waiting - round(CUSHION_S * self.rate)))
        self._silence(room - spoken)
        if spoken:
            self._place(utterance, spoken, events)

    def _place(self, utterance: Utterance, count: int, events: list[Event]) -> None:
        if not utterance.placed:
            events.append(Event(Happening.SPEECH_STARTED, self._now, utterance.name))
        start = self._buffer.written
        self._buffer.append(utterance.take(count))
        last = self._spans[-1] if self._spans else None
        if last is not None and last.utterance == utterance.name and last.stop == start:
            last.stop = self._buffer.written
        else:
            self._spans.append(Span(utterance.name, start, self._buffer.written))
        utterance.placed = utterance.flowing = True

    def _ended(self, utterance: Utterance) -> Event:
        # Utterances are placed one after the other, so the last span is where this one's voice ends.
        return Event(Happening.SPEECH_ENDED, self._spans[-1].stop / self.rate, utterance.name)

    def _silence(self, count: int) -> None:
        self._buffer.append(np.zeros(count, np.float32), voiced=False)

    def _cut(self, block: int, events: list[Event]) -> PlannedSound:
        frames = block_frames(block)
        utterances = tuple(self._spoken_in(frame) for frame in frames)
        if not any(utterances) and not self._idle:
            events.append(Event(Happening.IDLE, frames.start / self.fps, block=block))
        self._idle = not any(utterances)
        sound = Sound(block, frames.start / self.fps, self._buffer.played(block))
        planned = PlannedSound(self._buffer.window(block), sound, tuple(events), utterances)
        self._buffer.release(block)
        return planned

    def forget(self, shown_frames: int) -> None:
        """Spans wholly shown are needed no more, but for the last one, which an interrupt may ask about."""
        shown = self._buffer.boundary(shown_frames)
        while len(self._spans) > 1 and self._spans[0].stop <= shown:
            gone = self._spans.popleft()
            if self._spans[0].utterance == gone.utterance:
                self._spans[0].before = gone.before + gone.stop - gone.start

    def _spoken_in(self, frame: int) -> str:
        start, stop = self._buffer.boundary(frame), self._buffer.boundary(frame + 1)
        return next((s.utterance for s in self._spans if s.start < stop and s.stop > start), "")

    def _end(self, block: int) -> int:
        return self._buffer.boundary(block_sound_frames(block).stop)

    @property
    def _now(self) -> float:
        return self._buffer.written / self.rate
