"""Who called, and what became of it, as the trail hears it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from liveact_services.audit.event import Action
from liveact_services.sessions import SessionRecord, SessionState

if TYPE_CHECKING:
    from liveact_services.audit.trail import AuditTrail
    from liveact_services.errors import ServiceError
    from liveact_services.tenants import Caller

ENDS = {SessionState.CLOSED: Action.CLOSED, SessionState.EXPIRED: Action.EXPIRED, SessionState.FAILED: Action.FAILED}


class Witness:
    """One call's: whose it is becomes known while it is looked at."""

    def __init__(self, trail: AuditTrail | None = None, peer: str = "") -> None:
        """`trail`: None: nothing is recorded."""
        self._trail = trail
        self._peer = peer if trail is not None and trail.config.peers else ""
        self.caller: Caller | None = None

    def tell(self, action: Action, **fields: Any) -> None:
        """The caller did, or was refused, this."""
        if self._trail is None:
            return
        who = self.caller
        known = {} if who is None else {"key": who.key, "subject": who.subject, "issuer": who.issuer}
        self._trail.record(action, "" if who is None else who.tenant.id, peer=self._peer, **known, **fields)

    def of_session(self, tenant: str, session: str) -> SessionWitness:
        """For what happens to that session from now on."""
        return SessionWitness(self._trail, tenant, session)


class SessionWitness:
    """One session's, whoever is attached to it."""

    def __init__(self, trail: AuditTrail | None, tenant: str, session: str) -> None:
        self._trail, self._tenant, self._session = trail, tenant, session

    def moved(self, cause: str, stall_s: float) -> None:
        """It goes on elsewhere."""
        self._tell(Action.MOVED, detail=cause, stall_s=round(stall_s, 3))

    def ended(self, state: SessionState, error: ServiceError | None, frames: int, acknowledged: int, fps: int) -> None:
        """It is over."""
        reason = "" if error is None else error.reason
        seconds = round(frames / fps, 3)
        self._tell(ENDS[state], reason=reason, frames=frames, acknowledged=acknowledged, seconds=seconds)

    def _tell(self, action: Action, **fields: Any) -> None:
        if self._trail is not None:
            self._trail.record(action, self._tenant, session=self._session, **fields)


def swept(trail: AuditTrail, record: SessionRecord, state: SessionState) -> None:
    """The sweep ended a session whose Gateway had gone; how many frames its client has, nobody knows."""
    trail.record(
        ENDS[state], record.tenant, session=record.id, detail="its server had gone", frames=record.frame,
        seconds=round(record.frame / record.fps, 3),
    )  # fmt: skip
