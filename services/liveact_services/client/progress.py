"""What a client has of a session and says it has, so that the answers of several calls make one stream."""

from __future__ import annotations

from collections import Counter, deque

from grpc import StatusCode

from liveact.v1 import avatar_pb2 as pb2
from liveact_services.client.conversation import Payload
from liveact_services.errors import ClientError

MICROSECONDS = 1_000_000
SAMPLE_BYTES = 2

ON_THE_CLOCK = frozenset(
    {
        pb2.EVENT_TYPE_SPEECH_STARTED, pb2.EVENT_TYPE_SPEECH_ENDED, pb2.EVENT_TYPE_PROMPT_APPLIED, pb2.EVENT_TYPE_IDLE,
        pb2.EVENT_TYPE_UNDERRUN,
    }
)  # fmt: skip
"""Events that a block brings: a server that makes the block again tells them again, with the same words."""

RECENT_EVENTS = 64
"""More than a block brings."""


class Acks:
    """Which frame to acknowledge next, so that no server sees an acknowledgement it cannot accept.

    A server that took the session over may know nothing of frames before the one the call was resumed at: those are not
    acknowledged to it one by one.
    """

    def __init__(self) -> None:
        self._shown = self._sent = self._resumed_at = 0
        self.hungry = False
        """Whether whoever shows the frames has had every one there is, and waits for more."""

    def shown(self, frames: int) -> None:
        """So many frames were shown."""
        self._shown = max(self._shown, frames)

    def resumed(self, at: int) -> None:
        """The present call began with this frame."""
        self._resumed_at = at
        # The last acknowledgement may be lost, and a server waits for that of the last frame.
        if self._shown >= at:
            self._sent = 0

    def due(self) -> int | None:
        """What is to be sent now."""
        if self._shown <= self._sent:
            return None
        if self._shown >= self._resumed_at:
            return self._shown
        # All before it were received, hence stored; and who waits for credit would wait for ever.
        return self._resumed_at if self.hungry else None

    def sent(self, frames: int) -> None:
        """That was sent."""
        self._sent = frames


class Progress:
    """Frames, sound and events received. What a resumed call sends once more is left out, by `fresh`."""

    def __init__(self, rate: int = 16000) -> None:
        self.rate = rate
        """Samples a second of the sound."""
        self.frames = 0
        """Index of the next frame."""
        self._samples: int | None = None
        """Position after the last sound; None before the first."""
        self._tail: list[bytes] = []
        """Events since the last frame: those that come again when the call is resumed there."""
        self._clocked: deque[bytes] = deque(maxlen=RECENT_EVENTS)
        self._interrupted = 0
        """Requests up to the last interrupt that was answered: one that took the session over answers with other words."""
        self._expected: Counter[bytes] = Counter()
        """Events that the present call may repeat before its first frame."""

    def resumed(self) -> None:
        """From now on another call answers, from frame `frames` on."""
        self._expected = Counter(self._tail)
        self._expected.update(set(self._clocked) - self._expected.keys())

    def fresh(self, payload: Payload) -> Payload | None:
        """What of it is new; None for nothing. Raises `ClientError` when a frame is missing before it."""
        match payload:
            case pb2.VideoChunk():
                return self._video(payload)
            case pb2.AudioSpan():
                return self._sound(payload)
            case _:
                return self._event(payload)

    def _video(self, chunk: pb2.VideoChunk) -> pb2.VideoChunk | None:
        wanted = [frame for frame in chunk.frames if frame.index >= self.frames]
        if not wanted:
            return None
        if wanted[0].index != self.frames:
            raise ClientError(StatusCode.DATA_LOSS, f"frame {wanted[0].index} came where frame {self.frames} was next")
        self.frames = wanted[-1].index + 1
        self._tail.clear()
        self._expected.clear()
        if len(wanted) == len(chunk.frames):
            return chunk
        return pb2.VideoChunk(frames=wanted, block=chunk.block, times=chunk.times)

    def _sound(self, span: pb2.AudioSpan) -> pb2.AudioSpan | None:
        start = round(span.pts_us * self.rate / MICROSECONDS)
        stop = start + len(span.data) // SAMPLE_BYTES
        known = self._samples
        # A position that was rounded to microseconds may be a sample off; that is no overlap.
        if known is None or start >= known - 1:
            self._samples = stop
            return span
        if stop <= known + 1:
            return None
        self._samples = stop
        return pb2.AudioSpan(
            pts_us=round(known * MICROSECONDS / self.rate), data=span.data[SAMPLE_BYTES * (known - start) :],
            block=span.block, next_request=span.next_request,
        )  # fmt: skip

    def _event(self, event: pb2.Event) -> pb2.Event | None:
        words = event.SerializeToString(deterministic=True)
        if self._expected[words] > 0:
            self._expected[words] -= 1
            return None
        if event.type == pb2.EVENT_TYPE_INTERRUPTED and (told := event.interrupted.next_request):
            if told <= self._interrupted:
                return None
            self._interrupted = told
        self._tail.append(words)
        if event.type in ON_THE_CLOCK:
            self._clocked.append(words)
        return event
