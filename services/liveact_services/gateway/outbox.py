"""What a session has to say to its client: kept until acknowledged, so that another stream can go on where one broke off."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from liveact.v1 import avatar_pb2 as pb
from liveact_models.timeline import block_frames
from liveact_services.errors import fail
from liveact_services.gateway.messages import trimmed


@dataclass
class _Entry:
    message: pb.StreamAvatarResponse
    after: int
    """Once more than this many frames are acknowledged it is needed no more."""


class Outbox:
    """Messages in order. One reader at a time; the credit of the session bounds how many frames wait here."""

    def __init__(self, frame: int = 0) -> None:
        """`frame`: the first there will be; those before it were sent elsewhere."""
        self._entries: deque[_Entry] = deque()
        self._next = 0
        self._frames = self._acked = frame
        self._error: BaseException | None = None
        self._broken: BaseException | None = None
        self._done = False
        self._reader = 0
        self._news = asyncio.Event()
        self._drained = asyncio.Event()

    def put(self, message: pb.StreamAvatarResponse) -> None:
        after = self._frames
        if message.HasField("video"):
            after = self._frames = message.video.frames[-1].index + 1
        elif message.HasField("audio"):
            # It goes ahead of its frames and belongs to all of them: a client may resume at the last.
            after = block_frames(message.audio.block).stop
        self._entries.append(_Entry(message, after))
        self._news.set()

    def acked(self, frames: int) -> None:
        """Forget what was sent and acknowledged."""
        self._acked = max(self._acked, frames)
        while self._next > 0 and self._entries[0].after < frames:
            self._entries.popleft()
            self._next -= 1

    def rewind(self, next_frame: int) -> None:
        """Take the messages from the present reader and have the next one start with this frame.

        Every frame from there on comes once, with its sound; of the events, those that came with or after that frame come
        again. Raises `ServiceError` when the frame is not here.
        """
        if not self._acked <= next_frame <= self._frames:
            raise fail("RESUME_FRAME_UNAVAILABLE",
                       f"frame {next_frame} is wanted; frames {self._acked} to {self._frames} can be resumed from")  # fmt: skip
        kept: deque[_Entry] = deque()
        for position, entry in enumerate(self._entries):
            if position < self._next and entry.message.HasField("event") and entry.after < next_frame:
                continue
            message = trimmed(entry.message, next_frame)
            if message is not None:
                kept.append(_Entry(message, entry.after))
        self._entries, self._next = kept, 0
        self._broken = None
        self._take_over()

    def finish(self) -> None:
        """Nothing more will come."""
        self._done = True
        self._news.set()

    @property
    def drained(self) -> bool:
        """Whether a reader has come to the end: everything was sent."""
        return self._drained.is_set()

    async def drain(self) -> None:
        """Wait until everything was sent; after `finish`."""
        await self._drained.wait()

    def fail(self, error: BaseException) -> None:
        """Have the reader raise this at once, whatever still waits."""
        self._error = error
        self._news.set()

    def break_off(self, error: BaseException) -> None:
        """Have the present reader raise this; a later one goes on."""
        self._broken = error
        self._news.set()

    def messages(self) -> AsyncIterator[pb.StreamAvatarResponse]:
        """Messages as they come, until `finish`; raises what `fail` was given, or that a later reader took over."""
        return self._read(self._take_over())

    def _take_over(self) -> int:
        self._reader += 1
        self._news.set()
        return self._reader

    async def _read(self, reader: int) -> AsyncIterator[pb.StreamAvatarResponse]:
        while True:
            if reader != self._reader:
                raise fail("SESSION_TAKEN_OVER", "another stream resumed this session")
            self._news.clear()
            if (error := self._error or self._broken) is not None:
                raise error
            if self._next < len(self._entries):
                self._next += 1
                yield self._entries[self._next - 1].message
            elif self._done:
                self._drained.set()
                return
            else:
                await self._news.wait()
