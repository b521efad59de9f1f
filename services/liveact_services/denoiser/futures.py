"""What may become of the sessions that a replica holds: some thirty possible futures, and what fits when in each of them.

In a future every session ends at a moment, drawn from how long sessions before it lasted. The draws of one session are spread
evenly over what is possible and dealt out to the futures in a fixed order that differs from session to session: so a handful
of futures says much, and the same question gets the same answer.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from liveact_services.denoiser.room import Demand, Room

FUTURES = 32
_DEALS = tuple(tuple(Random(n).sample(range(FUTURES), FUTURES)) for n in range(61))
"""Which part of what is possible each future gets, by session."""


@dataclass(frozen=True, slots=True)
class Going:
    """A session that is held or will be."""

    remaining: Sequence[float]
    """Seconds it may go on for, one as likely as the other, in order."""
    demand: Demand


@dataclass(frozen=True, slots=True)
class Awaited:
    """A session to which a place was promised."""

    in_s: float
    """Seconds until it comes."""
    lasts: Sequence[float]
    """Seconds it may last, in order."""
    demand: Demand


def waits(room: Room, held: Sequence[Going], line: Sequence[Awaited], wanted: Demand, slack: float) -> list[float]:
    """Seconds until the wanted fits behind those in the line, one a future, in order; inf where it never does.

    `slack`: utilisation by which those in the line may pass the bound.
    """
    found = []
    for future in range(FUTURES):
        coming = _Coming(room.copy(), held, future)
        for place, awaited in enumerate(line):
            coming.pass_to(max(coming.at, awaited.in_s))
            if coming.pass_until_fits(awaited.demand, slack):
                coming.begin(awaited, len(held) + place)
        found.append(coming.at if coming.pass_until_fits(wanted) else float("inf"))
    return sorted(found)


def kept(
    room: Room, held: Sequence[Going], line: Sequence[Awaited], slack: float, newcomer: Awaited | None = None
) -> list[int]:
    """In how many futures each of the line finds a place when it comes, with and without a newcomer that begins now."""
    counts = [0] * len(line)
    for future in range(FUTURES):
        coming = _Coming(room.copy(), held, future)
        if newcomer is not None:
            coming.begin(newcomer, len(held))
        for place, awaited in enumerate(line):
            coming.pass_to(awaited.in_s)
            if coming.room.fits(awaited.demand, slack):
                coming.begin(awaited, len(held) + 1 + place)
                counts[place] += 1
    return counts


class _Coming:
    """One future, as far as it was gone through."""

    def __init__(self, room: Room, held: Sequence[Going], future: int) -> None:
        self.room, self.at = room, 0.0
        self._future = future
        self._ends = [(self._drawn(one.remaining, n), n, one.demand) for n, one in enumerate(held)]
        heapq.heapify(self._ends)

    def pass_to(self, at: float) -> None:
        """Time goes on."""
        ends = self._ends
        while ends and ends[0][0] <= at:
            self.room.give(heapq.heappop(ends)[2])
        self.at = max(at, self.at)

    def pass_until_fits(self, demand: Demand, slack: float = 1e-9) -> bool:
        """Time goes on until there is room; False where there never will be."""
        while not self.room.fits(demand, slack):
            if not self._ends:
                return False
            at, _, gone = heapq.heappop(self._ends)
            self.room.give(gone)
            self.at = max(at, self.at)
        return True

    def begin(self, one: Awaited, number: int) -> None:
        """It takes its place now."""
        self.room.take(one.demand)
        heapq.heappush(self._ends, (self.at + self._drawn(one.lasts, number), number, one.demand))

    def _drawn(self, seconds: Sequence[float], number: int) -> float:
        share = (_DEALS[number % len(_DEALS)][self._future] + 0.5) / FUTURES
        return seconds[int(share * len(seconds))]
