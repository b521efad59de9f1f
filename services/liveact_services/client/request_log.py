"""The requests that act on a session, kept for as long as a server may ask for them again."""

from __future__ import annotations

from collections import deque

from grpc import StatusCode

from liveact.v1 import avatar_pb2 as pb2
from liveact_services.errors import ClientError

ACTING = ("audio", "end_utterance", "interrupt", "update")
"""Requests that act on the performance; both sides count them from the session's first."""

OVERHEAD_BYTES = 256
"""What keeping a request takes beside its bytes, about."""


class RequestsForgotten(ClientError):
    """The session is there, but asks for requests that the client did not keep: its state on the server was lost further back."""


class RequestLog:
    """A session's acting requests in order. A request's number is its place in the session, from 0.

    At most `keep_bytes` of those that were sent are kept, the newest; those that were not sent are never dropped.
    """

    def __init__(self, keep_bytes: int) -> None:
        self._keep_bytes = keep_bytes
        self._entries: deque[tuple[pb2.StreamAvatarRequest, int]] = deque()
        self._first = 0
        self._sent = 0
        self._bytes = self._unsent_bytes = 0

    @property
    def end(self) -> int:
        """Number of the request that comes next."""
        return self._first + len(self._entries)

    @property
    def sent(self) -> int:
        """How many were written to the present call or one before, or need not be any more."""
        return self._sent

    @property
    def kept_bytes(self) -> int:
        """What is held here, overhead included."""
        return self._bytes

    @property
    def unsent_bytes(self) -> int:
        """What waits to be written."""
        return self._unsent_bytes

    def append(self, request: pb2.StreamAvatarRequest) -> int:
        """Keep one more request; gives its number."""
        size = request.ByteSize() + OVERHEAD_BYTES
        self._entries.append((request, size))
        self._bytes += size
        self._unsent_bytes += size
        return self.end - 1

    def next(self) -> pb2.StreamAvatarRequest | None:
        """The first that was not sent."""
        return self._entries[self._sent - self._first][0] if self._sent < self.end else None

    def advance(self) -> None:
        """That one was sent."""
        self._unsent_bytes -= self._entries[self._sent - self._first][1]
        self._sent += 1
        while self._bytes > self._keep_bytes and self._first < self._sent:
            self._drop()

    def forget(self, before: int) -> None:
        """The server will never ask for the requests before this number."""
        while self._first < min(before, self._sent):
            self._drop()

    def rewind(self, number: int) -> None:
        """Begin again with this request. Raises `RequestsForgotten`, or `ClientError` for one that was never sent."""
        if number < self._first:
            raise RequestsForgotten(
                StatusCode.DATA_LOSS,
                f"the server wants the session's requests from number {number} on; those before {self._first} are not kept "
                f"(at most {self._keep_bytes} bytes are)",
            )
        if number > self.end:
            raise ClientError(
                StatusCode.DATA_LOSS, f"the server says it has {number} of the session's requests; {self.end} were made"
            )
        self._sent = number
        self._unsent_bytes = sum(self._entries[i][1] for i in range(number - self._first, len(self._entries)))

    def _drop(self) -> None:
        self._bytes -= self._entries.popleft()[1]
        self._first += 1
