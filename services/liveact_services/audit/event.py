"""What the trail tells: one event, as one line of JSON. Neither voice nor portrait nor prompt stands in it."""

from __future__ import annotations

import dataclasses
import json
import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Action(StrEnum):
    """What happened."""

    OPENED = "session.opened"
    REFUSED = "session.refused"
    RESUMED = "session.resumed"
    MOVED = "session.moved"
    DELETED = "session.deleted"
    """Its owner asked for its end; the end itself follows."""
    CLOSED = "session.closed"
    EXPIRED = "session.expired"
    FAILED = "session.failed"
    AVATAR_CREATED = "avatar.created"
    AVATAR_REFUSED = "avatar.refused"
    AVATAR_DELETED = "avatar.deleted"
    GAP = "audit.gap"
    """Events of this tenant are missing here: `count` of them. A log that goes on outside has them."""


REFUSALS = frozenset({Action.REFUSED, Action.AVATAR_REFUSED})
"""What a caller can cause any number of."""


@dataclass(frozen=True)
class AuditEvent:
    """One event. Text that is empty and figures that are None are left out of its line."""

    action: Action
    tenant: str
    """Empty where nobody knows whose call it was."""
    time: float
    """Seconds since the epoch, by the Gateway's clock."""
    gateway: str = ""
    key: str = ""
    """Id of the API key, never the key."""
    subject: str = ""
    """`sub` of the token, where it was one."""
    issuer: str = ""
    """`iss` of the token."""
    peer: str = ""
    """The network's other end as the proxy saw it: behind a load balancer that one."""
    session: str = ""
    avatar: str = ""
    portrait_sha256: str = ""
    """Of the portrait's file as it was sent."""
    consent: str = ""
    """The reference that the caller gave for the consent of the person shown."""
    watermark: str = ""
    """What the pictures carry: visible, invisible, both or nothing."""
    reason: str = ""
    detail: str = ""
    frames: int | None = None
    """Video frames made, of the whole session."""
    acknowledged: int | None = None
    """Those that the client said it has."""
    seconds: float | None = None
    """What `frames` last."""
    stall_s: float | None = None
    """Seconds without a frame, of a session that moved."""
    count: int | None = None
    """Events that were not told before this one."""
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    """Finds the same event in the log and in Redis, and tells an event from its repetition."""

    def fields(self) -> dict[str, Any]:
        """What is told."""
        told = dataclasses.asdict(self).items()
        return {name: value for name, value in told if name == "tenant" or value not in ("", None)}

    def line(self, **more: Any) -> str:
        """As JSON on one line."""
        return json.dumps({**self.fields(), **more}, ensure_ascii=False, separators=(",", ":"))
