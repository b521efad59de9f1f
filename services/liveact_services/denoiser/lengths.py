"""How long sessions last, from those that have ended and those that go on."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Sequence

HISTORY = 256
"""Ended sessions that are remembered, of each tenant and of all."""
ENOUGH = 8
"""Ended sessions from which a history is believed, everybody's or a tenant's own."""
OUTLIVED = 0.1
"""A session older than all before it is expected to go on for this share of its age, or half or twice as long."""


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

    def outlook(self, running: Sequence[tuple[str, float]] = ()) -> Outlook:
        """What can be said while sessions of these tenants and ages go on. Raises `ValueError` while nothing is known."""
        if not self.known:
            raise ValueError(f"{len(self._all)} sessions have ended: {ENOUGH} are needed to say anything")
        return Outlook(self, running)

    def of(self, tenant: str) -> tuple[str, list[float]]:
        """The lengths that count for a tenant, in order, and whose they are: its own, or everybody's as ""."""
        known = self._by_tenant.get(tenant)
        return (tenant, known.ordered) if known is not None and len(known) >= ENOUGH else ("", self._all.ordered)


class Outlook:
    """How much longer sessions may go on.

    Of the sessions that began together the short ones end first: while long ones still go on, those that have ended are shorter
    than all. So each that goes on counts as well, with a length of those before it that grew older than it is.
    """

    def __init__(self, lengths: Lengths, running: Sequence[tuple[str, float]]) -> None:
        self._lengths, self._running = lengths, running
        self._likely: dict[str, list[float]] = {}

    def remaining(self, tenant: str, age_s: float) -> list[float]:
        """How long a session of that age may go on, one as likely as the other, the shortest first."""
        whose, ended = self._lengths.of(tenant)
        likely = self._likely.get(whose)
        if likely is None:
            likely = self._likely[whose] = _with_running(ended, [a for t, a in self._running if whose in ("", t)])
        older = likely[bisect_right(likely, age_s) :]
        if older:
            return [length - age_s for length in older]
        # By as much as those before it differed at the long end.
        usual = max(OUTLIVED * age_s, likely[-1] - likely[int(0.9 * len(likely))])
        return [usual / 2, usual, 2 * usual]


def _with_running(ended: list[float], ages: list[float]) -> list[float]:
    """The lengths in order, with one more for every session that goes on at these ages."""
    likely = list(ended)
    for number, age in enumerate(sorted(ages)):
        older = len(ended) - (first := bisect_right(ended, age))
        # Spread evenly: of many at one age the first gets a short one and the last a long one.
        share = (number * 0.6180339887 + 0.5) % 1.0
        insort(likely, ended[first + int(share * older)] if older else age * (1 + OUTLIVED))
    return likely


class _History:
    """The latest lengths, and the same in order."""

    def __init__(self) -> None:
        self._latest: deque[float] = deque()
        self.ordered: list[float] = []

    def __len__(self) -> int:
        return len(self._latest)

    def add(self, seconds: float) -> None:
        if len(self._latest) == HISTORY:
            del self.ordered[bisect_left(self.ordered, self._latest.popleft())]
        self._latest.append(seconds)
        insort(self.ordered, seconds)
