"""Whether a replica takes one more session: by measured time and memory, and when it will if it does not.

A session takes a *utilisation*: the device time of its blocks, as measured, times how often its pacing asks for one. A device
whose utilisations stay below a bound well under 1 shows every block in time. FASTEST sessions are background: they take what is
left, so they count as nothing here; memory they take like others.

A client that is refused is told when enough of the sessions held will probably have ended. Who is told so stands in a line: the
next one refused is told when there is room behind the line, and a newcomer is taken only where everybody in the line can still be
taken when told. Who does not come within `GRACE_S` is forgotten. A retry carries no name: whoever of the same tenant asks for the
same kind of session about then is taken for the one expected.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from statistics import median

from liveact_models.timeline import block_seconds
from liveact_services.conductor.stages import Pacing, SessionSpec
from liveact_services.denoiser.costs import BlockCosts
from liveact_services.denoiser.lengths import Lengths

DRAWS = 33
"""Possible futures that a retry time is the median of."""
UNKNOWN_RETRY_S = 5.0
"""Told while so few sessions have ended that nothing is known."""
SHORTEST_RETRY_S = 0.1
PATIENCE_S = 60.0
"""Who was told to come back later than this is not counted on."""
GRACE_S = 2.0
"""How long after its time somebody is still expected."""
PROMISED = 0.03
"""Utilisation by which whoever is expected may pass the bound: blocks may take a little longer now than when it was told."""
EARLY_S = 0.1
"""By how much somebody may come back early."""


@dataclass(frozen=True)
class Demand:
    """What one session takes."""

    utilisation: float
    memory: float
    """Bytes."""


@dataclass
class Room:
    """What is left of a replica."""

    sessions: int
    utilisation: float
    memory: float
    """Bytes; inf where memory is not what limits."""
    due: int = 0
    """Sessions held that take a utilisation."""

    def take(self, demand: Demand) -> None:
        """A session comes."""
        self._change(demand, -1)

    def give(self, demand: Demand) -> None:
        """A session goes."""
        self._change(demand, 1)

    def lacks(self, demand: Demand, slack: float = 1e-9) -> str:
        """What the replica is full of, in words; "" where the session fits. `slack`: utilisation beyond the bound."""
        if self.sessions < 1:
            return "as many sessions as it may hold"
        # A device too slow for even one session in time still serves one.
        if demand.utilisation > self.utilisation + slack and demand.utilisation > 0 and self.due > 0:
            return "as much as its device can show in time"
        if demand.memory > self.memory:
            return "as much as its device's memory holds"
        return ""

    def _change(self, demand: Demand, sign: int) -> None:
        self.sessions += sign
        self.utilisation += sign * demand.utilisation
        self.memory += sign * demand.memory
        self.due -= sign * (demand.utilisation > 0)


Going = tuple[list[float], Demand]
"""A session: the seconds that it may go on for, one as likely as the other, and what it takes."""


@dataclass(frozen=True)
class Refusal:
    """Why a session was not taken, and in how many seconds it probably would be."""

    why: str
    retry_after_s: float


@dataclass(frozen=True)
class _Admitted:
    spec: SessionSpec
    since: float


@dataclass(frozen=True)
class _Expected:
    """Somebody who was told to come back."""

    spec: SessionSpec
    at: float

    def is_now(self, now: float) -> bool:
        return self.at - EARLY_S <= now <= self.at + GRACE_S

    def may_be(self, spec: SessionSpec) -> bool:
        ours, theirs = self.spec, spec
        kind = (ours.tenant, ours.width, ours.height, ours.fps, ours.pacing)
        return kind == (theirs.tenant, theirs.width, theirs.height, theirs.fps, theirs.pacing)


class Admission:
    """The sessions a replica holds, what they take, and who was sent away."""

    def __init__(
        self,
        max_sessions: int,
        max_utilisation: float,
        costs: BlockCosts,
        memory_of: Callable[[SessionSpec], int],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`memory_of`: bytes that a session takes when it has made a block and is at the next."""
        self.max_sessions, self.max_utilisation = max_sessions, max_utilisation
        self._costs, self._memory_of, self._now = costs, memory_of, now
        self._lengths = Lengths()
        self._held: dict[str, _Admitted] = {}
        self._line: list[_Expected] = []

    def __len__(self) -> int:
        return len(self._held)

    @property
    def utilisation(self) -> float:
        """Of the sessions held, by what blocks take now."""
        return sum(self._demand(admitted.spec).utilisation for admitted in self._held.values())

    def refusal(self, spec: SessionSpec, memory: float = float("inf")) -> Refusal | None:
        """Why the session cannot be taken now; None when it can. `memory`: bytes that all sessions together may take."""
        self._line = [expected for expected in self._line if expected.at + GRACE_S >= self._now()]
        wanted = self._demand(spec)
        room, ahead = self._room(memory), self._line
        if (mine := self._expected(spec)) is not None:
            lacks = room.lacks(wanted, PROMISED)
            # It keeps its place in the line.
            ahead = ahead[: ahead.index(mine)]
        else:
            lacks = room.lacks(wanted) or self._kept(wanted, memory)
        return Refusal(lacks, self._retry_after_s(wanted, memory, ahead)) if lacks else None

    def admit(self, spec: SessionSpec) -> None:
        """The session is held from now on; if it was expected, it has come."""
        if (mine := self._expected(spec)) is not None:
            self._line.remove(mine)
        self._held[spec.session] = _Admitted(spec, self._now())

    def expect(self, spec: SessionSpec, retry_after_s: float) -> None:
        """The session was refused, and told to come back here in so many seconds."""
        if (mine := self._expected(spec)) is not None:
            # It came as told and there was no room yet: it is expected anew.
            self._line.remove(mine)
        if retry_after_s <= PATIENCE_S:
            self._line.append(_Expected(spec, self._now() + retry_after_s))
            self._line.sort(key=lambda expected: expected.at)

    def release(self, session: str, ended: bool = True) -> None:
        """The session is held no more; `ended`: not because it goes on elsewhere. An unknown one is no error."""
        admitted = self._held.pop(session, None)
        if admitted is not None and ended:
            self._lengths.record(admitted.spec.tenant, self._now() - admitted.since)

    def _kept(self, wanted: Demand, memory: float) -> str:
        """What somebody in the line would lack when told to come, were the wanted taken now; "" when nobody would.

        Whom not even an empty place would help is owed nothing.
        """
        if not self._line or not self._lengths.known:
            return ""
        now = self._now()
        ends = sorted(
            (now + median(remaining), number, demand) for number, (remaining, demand) in enumerate(self._going())
        )
        without, beside = self._room(memory), self._room(memory)
        beside.take(wanted)
        for expected in self._line:
            while ends and ends[0][0] <= expected.at:
                gone = ends.pop(0)[2]
                without.give(gone)
                beside.give(gone)
            demand = self._demand(expected.spec)
            if without.lacks(demand, PROMISED):
                continue
            if lacks := beside.lacks(demand):
                return lacks
            without.take(demand)
            beside.take(demand)
        return ""

    def _going(self) -> list[Going]:
        now = self._now()
        return [
            (self._lengths.remaining(admitted.spec.tenant, now - admitted.since), self._demand(admitted.spec))
            for admitted in self._held.values()
        ]

    def _expected(self, spec: SessionSpec) -> _Expected | None:
        """Whom of the line a session that comes now is taken for."""
        now = self._now()
        return next((e for e in self._line if e.is_now(now) and e.may_be(spec)), None)

    def _demand(self, spec: SessionSpec) -> Demand:
        block_s = self._costs.block_s(spec.width, spec.height)
        if block_s is None or spec.pacing is Pacing.FASTEST:
            return Demand(0.0, self._memory_of(spec))
        return Demand(block_s / block_seconds(1, spec.fps), self._memory_of(spec))

    def _room(self, memory: float) -> Room:
        room = Room(self.max_sessions, self.max_utilisation, memory)
        for admitted in self._held.values():
            room.take(self._demand(admitted.spec))
        return room

    # ---- when there will be room -------------------------------------------------------------------------------------------

    def _retry_after_s(self, wanted: Demand, memory: float, ahead: list[_Expected]) -> float:
        """Seconds until there is room, behind those of the line that are ahead: the median of what may happen."""
        lengths = self._lengths
        if not lengths.known:
            return UNKNOWN_RETRY_S
        held = self._going()
        line = [(lengths.remaining(one.spec.tenant, 0.0), self._demand(one.spec)) for one in ahead]
        # The same question gives the same answer.
        random = Random(0)
        waits = sorted(_one_future(self._room(memory), held, line, wanted, random) for _ in range(DRAWS))
        # Rounded up: who comes a moment before a session ends has come in vain.
        return max(SHORTEST_RETRY_S, math.ceil(waits[DRAWS // 2] / SHORTEST_RETRY_S) * SHORTEST_RETRY_S)


def _one_future(room: Room, held: list[Going], line: list[Going], wanted: Demand, random: Random) -> float:
    """Seconds until the wanted fits, in one possible future: sessions end, those of the line take their places in its order."""
    ends = [(random.choice(remaining), number, demand) for number, (remaining, demand) in enumerate(held)]
    heapq.heapify(ends)
    at = 0.0
    for place, (remaining, demand) in enumerate([*line, ([], wanted)]):
        while lacks := room.lacks(demand):
            if not ends:
                break
            at, _, gone = heapq.heappop(ends)
            room.give(gone)
        if not remaining:
            # What does not even fit alone may do so when the device's memory is used by others no more.
            return UNKNOWN_RETRY_S if lacks else at
        if not lacks:
            room.take(demand)
            heapq.heappush(ends, (at + random.choice(remaining), len(held) + place, demand))
    raise AssertionError("the last in the line is the one asked about")
