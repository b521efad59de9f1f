"""Where a session stands, and the one table of moves between states."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from liveact.v1 import avatar_pb2
from liveact_services.errors import ServiceError


class SessionState(enum.IntEnum):
    """As in the proto enum; the store keeps the names."""

    ADMITTED = avatar_pb2.SESSION_STATE_ADMITTED
    READY = avatar_pb2.SESSION_STATE_READY
    STREAMING = avatar_pb2.SESSION_STATE_STREAMING
    DETACHED = avatar_pb2.SESSION_STATE_DETACHED
    CLOSED = avatar_pb2.SESSION_STATE_CLOSED
    EXPIRED = avatar_pb2.SESSION_STATE_EXPIRED
    FAILED = avatar_pb2.SESSION_STATE_FAILED

    @property
    def ended(self) -> bool:
        return self in ENDED


ENDED = frozenset({SessionState.CLOSED, SessionState.EXPIRED, SessionState.FAILED})

MOVES: Mapping[SessionState, frozenset[SessionState]] = {
    SessionState.ADMITTED: frozenset({SessionState.READY}) | ENDED,
    # A client may be lost before its first frame.
    SessionState.READY: frozenset({SessionState.STREAMING, SessionState.DETACHED}) | ENDED,
    SessionState.STREAMING: frozenset({SessionState.DETACHED}) | ENDED,
    SessionState.DETACHED: frozenset({SessionState.STREAMING}) | ENDED,
    SessionState.CLOSED: frozenset(),
    SessionState.EXPIRED: frozenset(),
    SessionState.FAILED: frozenset(),
}
"""Every move that is allowed; nothing leaves an ended state."""


def sources(target: SessionState) -> frozenset[SessionState]:
    """The states from which a session may move to `target`."""
    return frozenset(state for state, targets in MOVES.items() if target in targets)


class IllegalMove(ServiceError):
    """The stored state does not allow the move; the record is unchanged."""

    def __init__(self, session_id: str, current: SessionState, target: SessionState) -> None:
        match current:
            case SessionState.EXPIRED:
                reason = "SESSION_EXPIRED"
            case SessionState.CLOSED | SessionState.FAILED:
                reason = "SESSION_ENDED"
            case _:
                reason = "SESSION_STATE_CONFLICT"
        allowed = ", ".join(sorted(state.name for state in MOVES[current])) or "nothing: it has ended"
        super().__init__(
            reason, f"session {session_id} is {current.name}, not to be moved to {target.name}; accepted is {allowed}"
        )
        self.current = current
        self.target = target
