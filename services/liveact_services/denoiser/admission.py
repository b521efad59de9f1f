"""Whether a replica takes one more session: by measured time and memory, and when it will if it does not.

A session takes a *utilisation*: the device time of its blocks, as measured, times how often its pacing asks for one. A device
whose utilisations stay below a bound well under 1 shows every block in time. FASTEST sessions are background: they take what is
left, so they count as nothing here; memory they take like others.

A client that is refused is told a time, which is a promise: the time by which, as surely as `SURELY` says, enough of the sessions
held will have ended. Who was told stands in a line, and the next one refused is told when there is room behind the line. Until
then places that get free are anybody's, as long as everybody in the line still finds one as surely when told; a newcomer that
would take the last such chance is refused. Who does not come within `GRACE_S` is forgotten. A retry carries no name: whoever asks
about then for the very same session is taken for the one expected, or else whoever of the same tenant asks for the same kind.
So a client that asks again and again, whatever it is told, looks like many: among tenants that were refused lately each is
promised no more than its share of the replica by weight, and who is refused beyond that is told a time too late to be counted on.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from liveact_models.timeline import block_seconds
from liveact_services.conductor.stages import Pacing, SessionSpec
from liveact_services.denoiser import futures
from liveact_services.denoiser.askers import Askers
from liveact_services.denoiser.costs import BlockCosts
from liveact_services.denoiser.futures import FUTURES, Awaited, Going
from liveact_services.denoiser.gathering import Settled, who_leaves
from liveact_services.denoiser.lengths import Lengths, Outlook
from liveact_services.denoiser.room import Demand, Room

SURELY = 0.98
"""Share of the possible futures in which a time told is to be right."""
SHORTEST_RETRY_S = 0.1
PATIENCE_S = 60.0
"""Who was told to come back later than this is not counted on."""
GRACE_S = 2.0
"""How long after its time somebody is still expected."""
PROMISED = 0.03
"""Utilisation by which whoever is expected may pass the bound: blocks may take a little longer now than when it was told."""
EARLY_S = 0.1
"""By how much somebody may come back early."""
FRESH = 0.1
"""Share of a time told for which the answer is not worked out anew."""
UNKNOWN = 1e6
"""The size of a small session where none has taken time yet: there is room for any."""
GATHERED_S = 5.0
"""In how long sessions that make room have left: a block's end, an export and an adoption."""
SETTLED_S = 60.0
"""How long a session is here before it may be asked to leave: none is sent from one replica to the next."""
LATELY = 16
"""Sessions admitted last that take time, which say how small sessions may be."""


class Refusal:
    """Why a session was not taken. When it may come back is worked out when it is first asked for, which is to be at once."""

    def __init__(self, why: str, wait: Callable[[], float | None] = lambda: None) -> None:
        self.why, self._wait = why, wait

    @cached_property
    def retry_after_s(self) -> float | None:
        """In how many seconds the session surely would be taken; None while nobody can know."""
        return self._wait()


@dataclass(frozen=True)
class _Admitted:
    spec: SessionSpec
    since: float
    came_at: float


@dataclass(frozen=True)
class _Expected:
    """Somebody who was told to come back."""

    spec: SessionSpec
    at: float

    def likeness(self, spec: SessionSpec, now: float) -> int:
        """2: it comes now as told, the same but for its name; 1: one of its kind comes in its time; 0: neither."""
        if not self.at - EARLY_S <= now <= self.at + GRACE_S:
            return 0
        ours, theirs = self.spec, replace(spec, session=self.spec.session)
        if ours == theirs:
            return 2
        kind = (ours.tenant, ours.width, ours.height, ours.fps, ours.pacing)
        alike = kind == (theirs.tenant, theirs.width, theirs.height, theirs.fps, theirs.pacing)
        return int(alike and now >= self.at)


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
        self._askers = Askers(PATIENCE_S)
        self._told: deque[tuple[float, SessionSpec]] = deque()
        """Clients that were told to come later than they are counted on, and until when they count as waiting."""
        self._memory = math.inf
        """Bytes there were for sessions when it was last asked."""
        self._answers: dict[tuple[Demand, float, int], tuple[float, float]] = {}
        """What was asked since something changed, and when and what was answered."""
        self._sum, self._due, self._summed_at = Demand(0.0, 0.0), 0, -1
        """What those held take together, how many of them take time, and after how many measured blocks that was."""
        self._lately: deque[SessionSpec] = deque(maxlen=LATELY)
        self._leaving: dict[str, float] = {}
        """Sessions held that make room, and by when they will have left."""

    def __len__(self) -> int:
        return len(self._held)

    @property
    def utilisation(self) -> float:
        """Of the sessions held, by what blocks take now."""
        return self._taken().utilisation

    @property
    def sessions(self) -> Collection[str]:
        """Those that are held."""
        return self._held.keys()

    @property
    def filled(self) -> tuple[float, float]:
        """What the sessions held take and what there is, in sessions of the smallest kind that came lately.

        Of time, memory and number what is taken most of counts. The two are equal where nothing is left.
        """
        smallest = self._smallest
        small = 1 / self.max_sessions if smallest is None else self._share(self._demand(smallest))
        return self._share(self._taken(), len(self._held)) / small, 1 / small

    @property
    def unit(self) -> float:
        """The size of such a session (`SessionSpec.size`)."""
        smallest = self._smallest
        return UNKNOWN if smallest is None else smallest.size

    @property
    def _smallest(self) -> SessionSpec | None:
        return min(self._lately, key=lambda spec: self._share(self._demand(spec)), default=None)

    @property
    def waiting(self) -> float:
        """What the clients that were told to come back would take, in full replicas."""
        now = self._now()
        while self._told and self._told[0][0] <= now:
            self._told.popleft()
        waiting = [spec for _, spec in self._told]
        waiting += [expected.spec for expected in self._line if expected.at + GRACE_S >= now]
        return sum(self._share(self._demand(spec)) for spec in waiting)

    def refusal(self, spec: SessionSpec, memory: float = float("inf")) -> Refusal | None:
        """Why the session cannot be taken now; None when it can. `memory`: bytes that all sessions together may take."""
        self._line = [expected for expected in self._line if expected.at + GRACE_S >= self._now()]
        self._memory = memory
        wanted = self._demand(spec)
        room, ahead = self._room(memory), self._line
        mine = self._expected(spec)
        if mine is not None:
            lacks = room.lacks(wanted, PROMISED)
            # It keeps its place in the line.
            ahead = ahead[: ahead.index(mine)]
        else:
            lacks = room.lacks(wanted)
            if not lacks and not self._kept(wanted, spec, memory):
                lacks = "as much as it can hold beside those who were told to come back"
        return Refusal(lacks, lambda: self._told_s(spec, mine, wanted, memory, ahead)) if lacks else None

    def admit(self, spec: SessionSpec, age_s: float = 0.0) -> None:
        """The session is held from now on; if it was expected, it has come. `age_s`: how long it had gone on elsewhere."""
        if (mine := self._expected(spec)) is not None:
            self._line.remove(mine)
        self._changed()
        self._held[spec.session] = _Admitted(spec, self._now() - age_s, self._now())
        if spec.pacing is not Pacing.FASTEST:
            self._lately.append(spec)

    def expect(self, spec: SessionSpec, retry_after_s: float) -> None:
        """The session was refused, and told to come back here in so many seconds."""
        self._askers.refused(spec.tenant, spec.weight, self._now())
        if (mine := self._expected(spec)) is not None:
            # It came as told and there was no room yet: it is expected anew.
            self._line.remove(mine)
        if retry_after_s <= PATIENCE_S:
            self._answers.clear()
            self._line.append(_Expected(spec, self._now() + retry_after_s))
            self._line.sort(key=lambda expected: expected.at)
        else:
            self._told.append((self._now() + PATIENCE_S, spec))

    def make_room(self, spec: SessionSpec, elsewhere: Iterable[float], memory: float = float("inf")) -> list[str]:
        """Sessions that are to leave, so that this one, which was refused, has a place here in `GATHERED_S`; it is then expected.

        They are smaller than it, and have been here a while. None where that does not make the room, where they would not find
        their places among the pieces of room that are `elsewhere`, in sizes (`SessionSpec.size`), or where its tenant has been
        promised its share.
        """
        now, wanted, self._memory = self._now(), self._demand(spec), memory
        room = self._room(memory)
        mine = self._expected(spec)
        if mine is None and not self._may_stand(spec, wanted):
            return []
        for expected in self._line:
            if expected is not mine:
                room.take(self._demand(expected.spec))
        self._leaving = {session: by for session, by in self._leaving.items() if by + GRACE_S >= now}
        for session in self._leaving:
            room.give(self._demand(self._held[session].spec))
        settled = {
            session: Settled(self._demand(held.spec), held.spec.size)
            for session, held in self._held.items()
            if session not in self._leaving and now - held.came_at >= SETTLED_S and held.spec.size < spec.size
        }
        leave = who_leaves(room, wanted, settled, elsewhere)
        if leave:
            self._leaving |= dict.fromkeys(leave, now + GATHERED_S)
            self.expect(spec, GATHERED_S)
        return leave

    def release(self, session: str, ended: bool = True) -> None:
        """The session is held no more; `ended`: not because it goes on elsewhere. An unknown one is no error."""
        self._changed()
        self._leaving.pop(session, None)
        admitted = self._held.pop(session, None)
        if admitted is not None and ended:
            self._lengths.record(admitted.spec.tenant, self._now() - admitted.since)

    def _kept(self, wanted: Demand, spec: SessionSpec, memory: float) -> bool:
        """Whether everybody in the line is as sure of a place as promised, or as without the wanted, were it taken now."""
        if not self._line or not self._lengths.known:
            return True
        room = self._room(memory)
        room.take(wanted)
        if _all_fit(room, [self._demand(expected.spec) for expected in self._line]):
            return True
        room, outlook = self._room(memory), self._outlook()
        held, line = self._going(outlook), self._awaited(self._line, outlook)
        newcomer = Awaited(0.0, outlook.remaining(spec.tenant, 0.0), wanted)
        beside = futures.kept(room, held, line, PROMISED, newcomer)
        if min(beside) >= _ENOUGH:
            return True
        without = futures.kept(room, held, line, PROMISED)
        return all(ours >= min(_ENOUGH, theirs) for ours, theirs in zip(beside, without, strict=True))

    def _outlook(self) -> Outlook:
        now = self._now()
        return self._lengths.outlook([(one.spec.tenant, now - one.since) for one in self._held.values()])

    def _going(self, outlook: Outlook) -> list[Going]:
        now = self._now()
        going = []
        for session, admitted in self._held.items():
            remaining = outlook.remaining(admitted.spec.tenant, now - admitted.since)
            if (by := self._leaving.get(session, -math.inf)) + GRACE_S >= now:
                remaining = [min(seconds, max(0.0, by - now)) for seconds in remaining]
            going.append(Going(remaining, self._demand(admitted.spec)))
        return going

    def _awaited(self, line: list[_Expected], outlook: Outlook) -> list[Awaited]:
        now = self._now()
        return [
            Awaited(max(0.0, one.at - now), outlook.remaining(one.spec.tenant, 0.0), self._demand(one.spec))
            for one in line
        ]

    def _expected(self, spec: SessionSpec) -> _Expected | None:
        """Whom of the line a session that comes now is taken for: the likest, of these the first."""
        now = self._now()
        best = max(self._line, key=lambda expected: expected.likeness(spec, now), default=None)
        return best if best is not None and best.likeness(spec, now) else None

    def _share(self, demand: Demand, sessions: int = 1) -> float:
        """Of the replica, by what there is least of."""
        memory = demand.memory / self._memory if self._memory > 0 else 0.0
        return max(demand.utilisation / self.max_utilisation, memory, sessions / self.max_sessions)

    def _demand(self, spec: SessionSpec) -> Demand:
        block_s = self._costs.block_s(spec.width, spec.height)
        if block_s is None or spec.pacing is Pacing.FASTEST:
            return Demand(0.0, self._memory_of(spec))
        return Demand(block_s / block_seconds(1, spec.fps), self._memory_of(spec))

    def _room(self, memory: float) -> Room:
        taken = self._taken()
        return Room(
            self.max_sessions - len(self._held), self.max_utilisation - taken.utilisation, memory - taken.memory, self._due
        )  # fmt: skip

    def _taken(self) -> Demand:
        """What the sessions held take together, by what blocks take now."""
        if self._summed_at != self._costs.measured:
            demands = [self._demand(admitted.spec) for admitted in self._held.values()]
            self._sum = Demand(sum(d.utilisation for d in demands), sum(d.memory for d in demands))
            self._due = sum(d.utilisation > 0 for d in demands)
            self._summed_at = self._costs.measured
        return self._sum

    def _changed(self) -> None:
        """What was worked out before holds no more."""
        self._answers.clear()
        self._summed_at = -1

    def _told_s(
        self, spec: SessionSpec, mine: _Expected | None, wanted: Demand, memory: float, ahead: list[_Expected]
    ) -> float | None:
        """What a refused session is told; who comes as told keeps its place, however many of its tenant stand in line."""
        wait = self._retry_after_s(wanted, memory, ahead)
        if wait is None or mine is not None or self._may_stand(spec, wanted):
            return wait
        return PATIENCE_S + wait

    def _may_stand(self, spec: SessionSpec, wanted: Demand) -> bool:
        """Whether the tenant is promised no more than its share with this one; one promise each is always kept."""
        share = self._askers.share(spec.tenant, spec.weight, self._now())
        theirs = [self._share(self._demand(one.spec)) for one in self._line if one.spec.tenant == spec.tenant]
        return share == 1 or not theirs or sum(theirs) + self._share(wanted) <= share

    def _retry_after_s(self, wanted: Demand, memory: float, ahead: list[_Expected]) -> float | None:
        """Seconds by which there surely is room, behind those of the line that are ahead; None while nobody can know."""
        if not self._lengths.known:
            return None
        now, asked = self._now(), (wanted, memory, len(ahead))
        if (known := self._answers.get(asked)) is not None and now - known[0] <= FRESH * known[1]:
            return max(SHORTEST_RETRY_S, known[1] - (now - known[0]))
        wait = self._wait(wanted, memory, ahead)
        if wait is not None:
            self._answers[asked] = now, wait
        return wait

    def _wait(self, wanted: Demand, memory: float, ahead: list[_Expected]) -> float | None:
        outlook = self._outlook()
        waits = futures.waits(self._room(memory), self._going(outlook), self._awaited(ahead, outlook), wanted, PROMISED)
        wait = waits[_ENOUGH - 1]
        if wait == float("inf"):
            # What does not even fit alone may do so when the device's memory is used by others no more.
            return None
        # Rounded up: who comes a moment before a session ends has come in vain.
        return max(SHORTEST_RETRY_S, math.ceil(wait / SHORTEST_RETRY_S) * SHORTEST_RETRY_S)


_ENOUGH = math.ceil(FUTURES * SURELY)
"""Futures in which a promise is to be kept."""


def _all_fit(room: Room, line: list[Demand]) -> bool:
    """Whether there is a place for everybody in the line at once."""
    for demand in line:
        if not room.fits(demand):
            return False
        room.take(demand)
    return True
