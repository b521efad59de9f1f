"""Leases: at any time one gateway owns a session, and every write of an earlier owner is refused.

Redis's own clock ends a lease. A fencing token grows with every lease given out, also across a loss of Redis's data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from liveact_services.errors import ServiceError, fail
from liveact_services.sessions.database import Database
from liveact_services.sessions.keys import ENDED_LIST, SessionKeys
from liveact_services.sessions.states import SessionState


class LeaseLost(ServiceError):
    """The fencing token is not the current lease's: it lapsed, was given back, or another owner took it."""

    def __init__(self, session_id: str) -> None:
        super().__init__("SESSION_TAKEN_OVER", f"session {session_id} is no longer held by this stream")


class Leases:
    """Every method raises STORE_UNAVAILABLE when Redis is away."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = SessionKeys(database)

    async def acquire(self, session_id: str, owner: str, ttl_ms: int, *, take_over: bool = False) -> int:
        """Leases a live session to `owner` for `ttl_ms`; returns the fencing token.

        `take_over` is for a client that proved itself with its resume token: its old stream, whose end the server may
        not have noticed, loses the lease. Raises SESSION_BUSY, SESSION_NOT_FOUND, SESSION_EXPIRED or SESSION_ENDED.
        """
        _check_ttl(ttl_ms)
        outcome, rest = await self._database.run(
            "acquire",
            [self._keys.session(session_id), self._keys.lease(session_id)],
            [owner, ttl_ms, "1" if take_over else "", ENDED_LIST, ""],
        )
        return self._token(session_id, outcome, rest)

    async def take_back(self, session_id: str, owner: str, token: int, ttl_ms: int) -> int:
        """Leases a session again to who had it last, with `token`; returns a new token.

        Raises LeaseLost where somebody was given the lease since, and otherwise as `acquire` does.
        """
        _check_ttl(ttl_ms)
        outcome, rest = await self._database.run(
            "acquire",
            [self._keys.session(session_id), self._keys.lease(session_id)],
            [owner, ttl_ms, "1", ENDED_LIST, token],
        )
        return self._token(session_id, outcome, rest)

    @staticmethod
    def _token(session_id: str, outcome: str, rest: Sequence[Any]) -> int:
        match outcome:
            case "OK":
                return int(rest[0])
            case "BUSY":
                raise fail(
                    "SESSION_BUSY",
                    f"session {session_id} is attached to another stream",
                    retry_after_s=max(rest[0], 0) / 1000,
                )
            case "ENDED":
                state = SessionState[rest[0].decode()]
                reason = "SESSION_EXPIRED" if state is SessionState.EXPIRED else "SESSION_ENDED"
                raise fail(reason, f"session {session_id} is {state.name}")
            case "STALE":
                raise LeaseLost(session_id)
            case _:
                raise fail("SESSION_NOT_FOUND", f"there is no session sessions/{session_id}")

    async def renew(self, session_id: str, token: int, ttl_ms: int) -> None:
        """Holds the lease for `ttl_ms` from now. Raises LeaseLost for a stale token."""
        _check_ttl(ttl_ms)
        await self._set_ttl(session_id, token, ttl_ms)

    async def release(self, session_id: str, token: int) -> None:
        """Gives the lease back. Raises LeaseLost for a stale token."""
        await self._set_ttl(session_id, token, 0)

    async def _set_ttl(self, session_id: str, token: int, ttl_ms: int) -> None:
        outcome, _ = await self._database.run("renew", [self._keys.lease(session_id)], [token, ttl_ms])
        if outcome == "STALE":
            raise LeaseLost(session_id)


def _check_ttl(ttl_ms: int) -> None:
    if ttl_ms <= 0:
        raise ValueError(f"ttl_ms {ttl_ms}: a lease lasts at least one millisecond")
