"""For how long, and after which errors, a client tries to go on with its session."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from grpc import StatusCode

from liveact_services.errors import ClientError

FINAL_CODES = frozenset(
    {
        StatusCode.INVALID_ARGUMENT, StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED, StatusCode.UNIMPLEMENTED,
        StatusCode.DATA_LOSS, StatusCode.FAILED_PRECONDITION,
    }
)  # fmt: skip
"""Nothing better comes of trying again, even where the service had no say. A proxy that has just started does not know the
application yet and says NOT_FOUND, so that is none of them."""

PASSING_REASONS = frozenset({"STREAM_NOT_CLOSED", "SESSION_BUSY", "CONFIG_TIMEOUT"})
"""They end a call and not its session."""


@dataclass(frozen=True)
class ResumePolicy:
    """What a client does to go on after a break. Times in seconds."""

    limit_s: float = 60.0
    """How long it tries. Servers say no sooner once the session has expired (`sessions.detached_timeout_s`, 30 s by default)."""
    first_wait_s: float = 0.1
    """Before the first attempt; each later wait is twice as long, down to half of it by chance."""
    longest_wait_s: float = 2.0
    attempt_s: float = 20.0
    """An attempt that is not answered for so long is given up."""
    keep_bytes: int = 64 * 1024 * 1024
    """Requests kept in case a server must be sent them again: 64 MiB are half an hour of 16 kHz voice."""
    queue_bytes: int = 4 * 1024 * 1024
    """Requests that may wait for the connection; who sends more waits with them."""

    def waits(self, draw: random.Random) -> Iterator[float]:
        """Seconds before each attempt, for ever."""
        longest = self.first_wait_s
        while True:
            yield draw.uniform(0.5, 1.0) * longest
            longest = min(2 * longest, self.longest_wait_s)


@dataclass(frozen=True)
class Outage:
    """One time in which a session had no connection."""

    cause: ClientError
    """What broke the call."""
    seconds: float
    """From the break to the server's answer to the resume."""
    attempts: int
    """Resumes tried, the last of which went through."""
    frame: int
    """Index of the frame it went on with."""


class ResumeFailed(ClientError):
    """Nobody let the session go on for as long as the policy allows. Code and reason are the last attempt's."""

    def __init__(self, session: str, cause: ClientError, last: ClientError, attempts: int, seconds: float) -> None:
        super().__init__(
            last.code,
            f"{session}: the connection broke ({cause}) and could not be resumed within {seconds:.0f} s; attempt {attempts}, "
            f"the last one, failed with {last}",
            last.reason,
        )
        self.cause = cause
        self.attempts = attempts
        self.retry_after_s = last.retry_after_s


def is_final(error: ClientError, *, resuming: bool = False) -> bool:
    """Whether an error ends the session for its client, and not only the call.

    `resuming`: the error answers a resume. Then a quota or a full service passes; within a call it has ended the session.
    """
    if not error.reason:
        return error.code in FINAL_CODES
    if error.reason == "SESSION_LOST":
        return True
    if error.reason == "CAPACITY":
        return not resuming
    if error.reason in PASSING_REASONS or error.resumable:
        return False
    return not (resuming and error.code is StatusCode.RESOURCE_EXHAUSTED)
