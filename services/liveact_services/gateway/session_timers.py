"""How long a session may last, rest and wait: what its limits make due. Pure logic on a clock that is handed in."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from liveact_services.config import SessionLimits

KEEP_S = 30.0
"""How often a session's replicas are told that it lives, also while it makes no blocks."""
EXPIRING_S = 30.0
"""How long before its end a session is told so."""


class Due(Enum):
    """What is to be done now."""

    EXPIRE = auto()
    """The session ends; why is said."""
    CUT_OFF = auto()
    """Its client was sent its whole credit and acknowledges nothing."""
    WARN = auto()
    """It is told, once, that it ends soon."""


@dataclass(frozen=True)
class Standing:
    """How a session stands at a moment."""

    ready: bool
    attached: bool
    out_of_credit: bool
    store_behind: bool
    """Whether its record cannot be written: nobody can resume it then."""


class SessionTimers:
    """The moments of one session from which its limits count, in seconds of `now`."""

    def __init__(self, limits: SessionLimits, age_s: float = 0.0, now: Callable[[], float] = time.monotonic) -> None:
        """`age_s`: how old the session is already."""
        self._limits, self._now = limits, now
        self._heard = self._acked = self._left = now()
        self._created = self._kept = self._heard - age_s
        self._warned = False

    def heard(self) -> None:
        """The client has said something."""
        self._heard = self._now()

    def acked(self) -> None:
        """The client has acknowledged frames."""
        self._acked = self._now()

    def attached(self) -> None:
        """A stream is there, or the session has come to be ready for it: nothing was missed before."""
        self._heard = self._acked = self._now()

    def left(self) -> None:
        """The stream has gone."""
        self._left = self._now()

    def keep(self) -> bool:
        """Whether the replicas are to be told now that the session lives."""
        due = self._now() - self._kept > KEEP_S
        if due:
            self._kept = self._now()
        return due

    def due(self, standing: Standing) -> tuple[Due, str] | None:
        """What is due, and why; None where nothing is."""
        limits, now = self._limits, self._now()
        if not standing.out_of_credit:
            self._acked = now
        age = now - self._created
        if age > limits.max_duration_s:
            return Due.EXPIRE, f"a session lasts {limits.max_duration_s:.0f} s at most"
        if not standing.attached:
            if standing.store_behind:
                # Nobody can resume it while the store is away.
                self._left = now
            elif now - self._left > limits.detached_timeout_s:
                return Due.EXPIRE, f"no stream for {limits.detached_timeout_s:.0f} s"
        elif now - self._heard > limits.idle_timeout_s:
            return Due.EXPIRE, f"neither voice nor ack for {limits.idle_timeout_s:.0f} s"
        elif standing.ready and standing.out_of_credit and now - self._acked > limits.ack_timeout_s:
            quiet = f"none acknowledged for {limits.ack_timeout_s:.0f} s"
            return Due.CUT_OFF, f"{limits.credit_frames} frames were sent and {quiet}"
        elif age > limits.max_duration_s - EXPIRING_S and not self._warned:
            self._warned = True
            return Due.WARN, f"the session ends in {EXPIRING_S:.0f} s"
        return None
