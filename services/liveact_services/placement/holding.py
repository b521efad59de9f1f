"""What one replica holds, and its own word on what it admits: the last one, whatever a router believed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from liveact_services.placement.choose import fits
from liveact_services.placement.pins import ReplicaFull, ReplicaGone


class StaleHolder(Exception):
    """The caller's fencing token is older than the one under which the session is held: somebody else has it now."""


@dataclass(frozen=True, slots=True)
class Held:
    """One session here."""

    need: float
    """What it takes of the replica: 1 of a count, or its utilisation."""
    token: int
    """The fencing token under which it was admitted or adopted."""


class Admission(Protocol):
    """What decides at a replica, as a fleet sees it; `Holding` is one."""

    @property
    def used(self) -> float:
        """What its sessions take; exactly 0 of none."""

    @property
    def sessions(self) -> Mapping[str, object]:
        """Those it holds, by name."""

    def admit(self, session: str, token: int, need: float) -> None:
        """Take a session of this utilisation. Raises `ReplicaFull` or `StaleHolder`."""

    def release(self, session: str, token: int) -> None:
        """Forget it. Raises `StaleHolder`."""


class Holding:
    """The sessions of one replica: so many, and not more of its time than there is.

    Utilisation is the share of the replica's time that a session's blocks take; their sum stays under `bound`.
    """

    def __init__(self, replica: str, *, max_sessions: int, bound: float = math.inf) -> None:
        self.replica = replica
        self.draining = False
        self.sessions: dict[str, Held] = {}
        self.used = 0.0
        """Sum of the needs."""
        self._max_sessions, self._bound = max_sessions, bound

    def admit(self, session: str, token: int, need: float = 1.0) -> None:
        """Take the session, or take it again under a newer token.

        Raises `ReplicaFull` where there is no room or the replica is drained, `StaleHolder` for a token older than known.
        """
        present = self.sessions.get(session)
        if present is not None:
            self.check(session, token)
        elif self.draining or len(self.sessions) >= self._max_sessions or not fits(self.used, need, self._bound):
            raise ReplicaFull(self.replica)
        self.sessions[session] = Held(need if present is None else present.need, token)
        self.used += need if present is None else 0.0

    def check(self, session: str, token: int) -> None:
        """Whether work under this token may be done here. Raises `ReplicaGone` or `StaleHolder`."""
        held = self.sessions.get(session)
        if held is None:
            raise ReplicaGone(f"session {session} is not held here")
        if token < held.token:
            raise StaleHolder(f"session {session} is held under token {held.token}, not {token}")

    def release(self, session: str, token: int | None = None) -> None:
        """Forget the session; one that is not here is no error. With a token, raises `StaleHolder` for an older one."""
        if token is not None and session in self.sessions:
            self.check(session, token)
        held = self.sessions.pop(session, None)
        if held is not None:
            # Exactly zero when empty, so that years of additions leave no remainder.
            self.used = self.used - held.need if self.sessions else 0.0
