"""How long sessions last, from those that have ended."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
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
        self._all = _History()
        self._by_tenant: dict[str, _History] = {}

    @property
    def known(self) -> bool:
        """Whether enough sessions have ended to say anything."""
        return len(self._all) >= ENOUGH

    def record(self, tenant: str, seconds: float) -> None:
        """A session of the tenant ended after so long."""
        self._all.add(seconds)
        self._by_tenant.setdefault(tenant, _History()).add(seconds)

    def remaining(self, tenant: str, age_s: float) -> list[float]:
        """How long a session of that age may go on, the shortest first: what every session before it went on for that grew older.

        Raises `ValueError` while nothing is known.
        """
        if not self.known:
            raise ValueError(f"{len(self._all)} sessions have ended: {ENOUGH} are needed to say anything")
        known = self._by_tenant.get(tenant)
        older = (known if known and len(known) >= ENOUGH else self._all).longer_than(age_s)
        return [length - age_s for length in older] or [OUTLIVED * age_s]


class _History:
    """The latest lengths, and the same in order."""

    def __init__(self) -> None:
        self._latest: deque[float] = deque()
        self._ordered: list[float] = []

    def __len__(self) -> int:
        return len(self._latest)

    def add(self, seconds: float) -> None:
        if len(self._latest) == HISTORY:
            del self._ordered[bisect_left(self._ordered, self._latest.popleft())]
        self._latest.append(seconds)
        insort(self._ordered, seconds)

    def longer_than(self, seconds: float) -> list[float]:
        return self._ordered[bisect_right(self._ordered, seconds) :]
