"""What a session has to say to its client: kept until acknowledged, so that another stream can go on where one broke off."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from liveact.v1 import avatar_pb2 as pb

from liveact_services.errors import fail
from liveact_services.gateway.messages import trimmed


@dataclass
class _Entry:
    message: pb.StreamAvatarResponse
    after: int
    """Frames sent once this message is: when that many are acknowledged it is needed no more."""
    sent: bool = False


class Outbox:
    """Messages in order. One reader at a time; the credit of the session bounds how many frames wait here."""

    def __init__(self) -> None:
        self._entries: deque[_Entry] = deque()
        self._next = 0
        self._frames = 0
        self._acked = 0
        self._error: BaseException | None = None
        self._broken: BaseException | None = None
        self._done = False
        self._reader = 0
        self._news = asyncio.Event()

    def put(self, message: pb.StreamAvatarResponse) -> None:
        if message.HasField("video"):
            self._frames = message.video.frames[-1].index + 1
        self._entries.append(_Entry(message, self._frames))
        self._news.set()

    def acked(self, frames: int) -> None:
        """Forget what was sent and acknowledged."""
        self._acked = frames
        # Sound goes ahead of its frames and is needed again by a client that resumes before them: it has `after` of the frames
        # before it, so strictly less than.
        while self._next > 0 and self._entries[0].sent and self._entries[0].after < frames:
            self._entries.popleft()
            self._next -= 1

    def rewind(self, next_frame: int) -> None:
        """Have the next reader start with this frame. Raises `ServiceError` when it is not here."""
        if not self._acked <= next_frame <= self._frames:
            raise fail("RESUME_FRAME_UNAVAILABLE",
                       f"frame {next_frame} is wanted; frames {self._acked} to {self._frames} can be resumed from")  # fmt: skip
        kept: deque[_Entry] = deque()
        for entry in self._entries:
            if entry.sent and entry.message.HasField("event"):
                continue
            message = trimmed(entry.message, next_frame)
            if message is not None:
                kept.append(_Entry(message, entry.after))
        self._entries, self._next = kept, 0
        self._news.set()

    def finish(self) -> None:
        """Nothing more will come."""
        self._done = True
        self._news.set()

    def fail(self, error: BaseException) -> None:
        """Have the reader raise this at once, whatever still waits."""
        self._error = error
        self._news.set()

    def break_off(self, error: BaseException) -> None:
        """Have the present reader raise this; a later one goes on."""
        self._broken = error
        self._news.set()

    async def messages(self) -> AsyncIterator[pb.StreamAvatarResponse]:
        """Messages as they come, until `finish`; raises what `fail` was given, or that a later reader took over."""
        self._reader += 1
        reader = self._reader
        self._broken = None
        self._news.set()
        while True:
            if reader != self._reader:
                raise fail("SESSION_TAKEN_OVER", "another stream resumed this session")
            self._news.clear()
            if (error := self._error or self._broken) is not None:
                raise error
            if self._next < len(self._entries):
                entry = self._entries[self._next]
                self._next += 1
                entry.sent = True
                yield entry.message
            elif self._done:
                return
            else:
                await self._news.wait()
