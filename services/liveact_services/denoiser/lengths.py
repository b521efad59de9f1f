"""How long sessions last, from those that have ended."""

from __future__ import annotations

from collections import deque

HISTORY = 256
"""Ended sessions that are remembered, of each tenant and of all."""
ENOUGH = 8
"""Ended sessions from which a history is believed, everybody's or a tenant's own."""
OUTLIVED = 0.1
"""A session older than all before it is expected to go on for this share of its age."""


class Lengths:
    """Durations of ended sessions. A tenant's sessions are alike more often than everybody's, so its own count first."""

    def __init__(self) -> None:
        self._all: deque[float] = deque(maxlen=HISTORY)
        self._by_tenant: dict[str, deque[float]] = {}

    @property
    def known(self) -> bool:
        """Whether enough sessions have ended to say anything."""
        return len(self._all) >= ENOUGH

    def record(self, tenant: str, seconds: float) -> None:
        """A session of the tenant ended after so long."""
        self._all.append(seconds)
        self._by_tenant.setdefault(tenant, deque(maxlen=HISTORY)).append(seconds)

    def remaining(self, tenant: str, age_s: float) -> list[float]:
        """How long a session of that age may go on: what it went on for every session before it that grew older than it is.

        Raises `ValueError` while nothing is known.
        """
        if not self.known:
            raise ValueError(f"{len(self._all)} sessions have ended: {ENOUGH} are needed to say anything")
        known = self._by_tenant.get(tenant, ())
        lengths = known if len(known) >= ENOUGH else self._all
        older = [length - age_s for length in lengths if length > age_s]
        return older or [OUTLIVED * age_s]
