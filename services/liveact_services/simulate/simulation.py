"""The events of a day, one after the other: sessions come and go, replicas start, nodes are lost, the policy is asked.

Where a session goes is `placement.fleet`, what a replica admits and when it tells others to come back `denoiser.admission`,
how many replicas there are `placement.autoscaling`: the code that serves.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable
from itertools import takewhile
from typing import Any

from liveact_models.timeline import block_seconds
from liveact_services.denoiser.admission import GATHERED_S, Refusal
from liveact_services.denoiser.simulation import simulated_spec
from liveact_services.placement.autoscaling import Observation, ScalingRules, ScalingState, carried, decide
from liveact_services.placement.choose import ReplicaView
from liveact_services.placement.fleet import Fleet
from liveact_services.placement.gathering import GATHER_FROM_S, MAKERS, PIECES, makers
from liveact_services.placement.pins import NoReplica, Pin
from liveact_services.simulate.machines import Hardware, Machines, Node
from liveact_services.simulate.replica import REFUSED, SimulatedDenoiser
from liveact_services.simulate.report import Tally
from liveact_services.simulate.service import Service, Session
from liveact_services.simulate.workload import Workload


class Simulation:
    """One service on one clock; `run` once."""

    def __init__(
        self,
        workload: Workload,
        rules: ScalingRules,
        hardware: Hardware,
        service: Service,
        until_s: float,
        seed: int,
    ) -> None:
        self.tally = Tally(until_s)
        self._workload, self._rules, self._service, self._until = workload, rules, service, until_s
        self._hardware, self._machines = hardware, Machines(hardware, seed)
        self._random = random.Random(seed + 1)
        self._fleet = Fleet()
        self._state = ScalingState()
        self._replicas: dict[int, SimulatedDenoiser] = {}
        """Those that serve."""
        self._unheard: set[int] = set()
        """Those of which routers have not heard the latest."""
        self._nodes: dict[int, Node] = {}
        """Of every replica, those that start included."""
        self._starting: dict[int, None] = {}
        """In the order in which they were asked for."""
        self._surplus: set[int] = set()
        """Drained because there are too many."""
        self._leaving: set[int] = set()
        """Drained because their node goes."""
        self._sessions: dict[str, Session] = {}
        self._of_tenant: Counter[int] = Counter()
        self._waiting = 0.0
        """What those without a replica need, in full replicas."""
        self._present = 0
        """Sessions with one."""
        self._born = 0
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._order = 0
        self._now = 0.0

    def run(self) -> Tally:
        """Every event up to the end."""
        workload, events = self._workload, self._events
        self._now = float(workload.arrive_s[0]) if len(workload) else 0.0
        # Fewer at the start would be one more flash crowd.
        for _ in range(self._rules.min_replicas):
            self._start()
        self._at(self._now, self._tick, None)
        self._at(self._now, self._hear, None)
        arrivals = zip(
            range(len(workload)), workload.arrive_s.tolist(), workload.last_s.tolist(), workload.picture.tolist(),
            workload.tenant.tolist(), strict=True,
        )  # fmt: skip
        for number, asked, last, picture, tenant in arrivals:
            while events and events[0][0] <= asked:
                self._next()
            self._now = asked
            self._arrive(self._session(number, asked, last, picture, tenant))
        while events and events[0][0] <= self._until:
            self._next()
        self._now = self._until
        self._count()
        for session in self._sessions.values():
            self._leave_off(session)
        return self.tally

    def _next(self) -> None:
        self._now, _, happens, what = heapq.heappop(self._events)
        happens(what)

    def _at(self, when: float, happens: Callable[[Any], None], what: Any) -> None:
        self._order += 1
        heapq.heappush(self._events, (when, self._order, happens, what))

    def _clock(self) -> float:
        return self._now

    # ---- sessions ----------------------------------------------------------------------------------------------------------

    def _session(self, number: int, asked: float, last: float, picture: int, tenant: int) -> Session:
        seen = self._workload.pictures[picture]
        spec = simulated_spec(
            str(number), str(tenant), side=seen.width, height=seen.height, fps=seen.fps, seed=number
        )  # fmt: skip
        block_s = self._service.device.pixel_s * seen.width * seen.height
        return Session(spec, block_s / block_seconds(1, seen.fps), tenant, asked, last)

    def _arrive(self, session: Session) -> None:
        tenant = session.tenant
        self.tally.asked(session)
        if self._of_tenant[tenant] >= self._workload.quota[tenant]:
            self.tally.over_quota(session)
            return
        self._of_tenant[tenant] += 1
        self._sessions[session.name] = session
        self._seek(session)

    def _seek(self, session: Session) -> None:
        """Find it a place, or have it wait for one, or give up."""
        replica, told = self._find(session)
        if replica is not None:
            self._settle(session, replica)
            return
        now, service = self._now, self._service
        left = session.asked_s + service.patience_s - now
        if left <= 0:
            self._give_up(session)
            return
        self._waiting += session.need / service.max_utilisation
        # A session that lost its replica is told nothing.
        session.told_s = told if session.began_s < 0 and told <= left else -1.0
        self._at(now + (told if session.told_s >= 0 else min(service.retry_s, left)), self._ask_again, session)

    def _ask_again(self, session: Session) -> None:
        self._waiting -= session.need / self._service.max_utilisation
        told, session.told_s = session.told_s, -1.0
        self._seek(session)
        if told >= 0:
            # Right, too, where it is told to come back before a fifth of the time has passed again.
            self.tally.came_back(session, session.replica >= 0 or 0 <= session.told_s <= LATE * told)

    def _find(self, session: Session, avoid: int | None = None) -> tuple[int | None, float]:
        """As the Gateway does: ask one replica after the other. The one that took it; else the seconds it is told to wait."""
        refused: dict[str, Refusal] = {} if avoid is None else {_name(avoid): REFUSED}
        while True:
            try:
                name = self._fleet.choose(Pin(session.name, None, tuple(refused), session.spec.size))
            except NoReplica:
                break
            age_s = self._now - session.began_s if session.began_s >= 0 else 0.0
            if (refusal := self._replicas[int(name)].open(session.spec, age_s)) is None:
                self.tally.placed_after(self._now, len(refused))
                return int(name), 0.0
            refused[name] = refusal
        # Only a client is told a time: a session that lost its replica asks again by itself, and soon.
        times = {} if session.began_s >= 0 else {name: refusal.retry_after_s for name, refusal in refused.items()}
        known = [(time, name) for name, time in times.items() if time is not None]
        soonest, first = min(known, default=(math.inf, ""))
        if self._service.gathers and session.began_s < 0 and soonest > GATHER_FROM_S and self._gather(session):
            return None, GATHERED_S
        if not known:
            return None, math.inf
        self._replicas[int(first)].admission.expect(session.spec, soonest)
        return None, soonest

    def _settle(self, session: Session, replica: int) -> None:
        self._unheard.add(replica)
        self._present += 1
        if session.began_s < 0:
            session.began_s = self._now
            self.tally.placed(session)
        if session.replica < 0:
            session.ends_s = self._now + session.last_s
            self._at(session.ends_s, self._end, session)
        session.replica = replica

    def _give_up(self, session: Session) -> None:
        self._forget(session)
        if session.began_s < 0:
            self.tally.refused(session)
        else:
            self.tally.lost(session, self._now)

    def _end(self, session: Session) -> None:
        # One that was lost with its node meanwhile ends later, and that end is on its way.
        if session.replica >= 0 and self._now >= session.ends_s:
            self._leave(session, ended=True)
            self._forget(session)
            session.replica = -1
            self.tally.served(session, self._now)

    def _leave(self, session: Session, ended: bool) -> None:
        self._replicas[session.replica].admission.release(session.name, ended)
        self._unheard.add(session.replica)
        self._present -= 1

    def _forget(self, session: Session) -> None:
        del self._sessions[session.name]
        self._of_tenant[session.tenant] -= 1

    def _leave_off(self, session: Session) -> None:
        """The measured time is over."""
        if session.began_s >= 0:
            self.tally.served(session, self._now)

    def _move(self, moving: tuple[Session, int]) -> None:
        """From a drained replica to another, at the end of a block."""
        session, replica = moving
        if session.replica != replica or session.name not in self._sessions:
            return
        if replica not in self._surplus and replica not in self._leaving:
            return
        other, _ = self._find(session)
        if other is None:
            self._at(self._now + self._service.retry_s, self._move, moving)
            return
        self._go_over(session, other)

    def _gather(self, session: Session) -> bool:
        """Have a replica make room for it, as the Gateway does; whether one does."""
        for replica, elsewhere in makers(session.spec.size, self._fleet.roomiest(MAKERS + PIECES)):
            if leave := self._replicas[int(replica)].make_room(session.spec, elsewhere):
                for other in leave:
                    self._at(self._at_block_end(), self._step_aside, (self._sessions[other], int(replica)))
                return True
        return False

    def _step_aside(self, leaving: tuple[Session, int]) -> None:
        """From a replica that makes room to another, at the end of a block; without a place it stays."""
        session, replica = leaving
        if session.replica != replica or session.name not in self._sessions:
            return
        other, _ = self._find(session, avoid=replica)
        if other is not None:
            self._go_over(session, other)

    def _go_over(self, session: Session, other: int) -> None:
        self._leave(session, ended=False)
        self._settle(session, other)
        self.tally.moved(self._now)

    def _at_block_end(self) -> float:
        return self._now + self._random.random() * self._service.block_s + self._service.transfer_s

    # ---- replicas ----------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._count()
        self._born += 1
        replica = self._born
        node, ready, new = self._machines.start(replica, self._now)
        self._nodes[replica] = node
        self._starting[replica] = None
        self._at(ready, self._ready, replica)
        if new:
            self._at(node.ends_s - (self._hardware.notice_s if node.spot else 0), self._announce, node)

    def _ready(self, replica: int) -> None:
        if replica not in self._starting:
            return
        self._count()
        del self._starting[replica]
        service, draining = self._service, self._nodes[replica].leaving
        started = self._replicas[replica] = SimulatedDenoiser(
            service.device, service.max_sessions, service.max_utilisation, self._clock, self._random
        )
        held, capacity = started.admission.filled
        self._fleet.add(ReplicaView(_name(replica), self._now, held, capacity, draining))
        if draining:
            started.draining = True
            self._leaving.add(replica)

    def _hear(self, nothing: None) -> None:
        """Routers hear of the replicas where something changed."""
        self._at(self._now + self._service.hear_s, self._hear, None)
        for replica in sorted(self._unheard & self._replicas.keys()):
            said = self._replicas[replica]
            held, capacity = said.admission.filled
            unit = said.admission.unit
            self._fleet.update(_name(replica), held=held, capacity=capacity, unit=unit, draining=said.draining)
        self._unheard.clear()

    def _stop(self, replica: int) -> None:
        """It is there no more; its sessions were moved or are lost."""
        self._count()
        node = self._nodes.pop(replica)
        if replica in self._starting:
            del self._starting[replica]
        else:
            self._fleet.remove(_name(replica))
            self._present -= len(self._replicas.pop(replica).admission.sessions)
            self._surplus.discard(replica)
            self._leaving.discard(replica)
        self._machines.stop(replica, node)

    def _drain(self, replica: int) -> None:
        self._mark(replica, True)
        for name in self._replicas[replica].admission.sessions:
            self._at(self._at_block_end(), self._move, (self._sessions[name], replica))

    # ---- nodes -------------------------------------------------------------------------------------------------------------

    def _announce(self, node: Node) -> None:
        """A reclaimed node's end is told in advance; a broken one's is not."""
        if node.gone:
            return
        if node.spot:
            node.leaving = True
            for replica in sorted(node.replicas & self._replicas.keys()):
                self._leaving.add(replica)
                self._surplus.discard(replica)
                self._drain(replica)
        self._at(node.ends_s, self._lose, node)

    def _lose(self, node: Node) -> None:
        if node.gone:
            return
        self.tally.node_lost(self._now)
        bereft = []
        for replica in sorted(node.replicas):
            if replica in self._replicas:
                bereft += [self._sessions[name] for name in self._replicas[replica].admission.sessions]
            self._stop(replica)
        for session in bereft:
            # Another replica adopts its last export.
            session.last_s, session.asked_s = session.ends_s - self._now, self._now
            session.replica = -1
            self._seek(session)
            if session.replica >= 0:
                self.tally.moved(self._now)

    # ---- the policy --------------------------------------------------------------------------------------------------------

    def _tick(self, nothing: None) -> None:
        self._at(self._now + self._service.tick_s, self._tick, None)
        starting, fleet = len(self._starting), self._fleet
        per_replica = carried(self._present, fleet.used, self._service.max_sessions)
        seen = Observation(
            now=self._now, asked=starting + len(fleet), admitted=self._present,
            waiting=max(0.0, self._waiting) * per_replica, per_replica=per_replica, draining=len(self._leaving),
            idle_newest=starting + self._idle_newest(),
        )  # fmt: skip
        decision, self._state = decide(self._rules, seen, self._state)
        for _ in range(seen.asked, decision.target):
            self._start()
        for _ in range(decision.target, seen.asked):
            self._stop(next(reversed(self._starting)) if self._starting else self._newest())
        self._thin_out(decision.surplus if self._service.moves else 0)

    def _newest(self) -> int:
        return int(next(self._fleet.newest_first()).id)

    def _idle_newest(self) -> int:
        """How many of the newest hold nothing, by their own word: a view may be late, and what holds a session stays."""
        newest = self._fleet.newest_first()
        return sum(1 for _ in takewhile(lambda view: not self._replicas[int(view.id)].admission.sessions, newest))

    def _thin_out(self, surplus: int) -> None:
        """Have exactly so many of the newest drained for being too many."""
        if not surplus and not self._surplus:
            return
        wanted: set[int] = set()
        for view in self._fleet.newest_first():
            if len(wanted) >= surplus:
                break
            if int(view.id) not in self._leaving:
                wanted.add(int(view.id))
        for replica in sorted(self._surplus - wanted):
            self._mark(replica, False)
        fresh = sorted(wanted - self._surplus)
        self._surplus = wanted
        for replica in fresh:
            self._drain(replica)

    def _mark(self, replica: int, draining: bool) -> None:
        """It takes no sessions from now on, or again; routers hear of it soon."""
        self._replicas[replica].draining = draining
        self._unheard.add(replica)

    def _count(self) -> None:
        """Before the number of replicas or nodes changes: so long they were so many."""
        self.tally.stood(self._now, len(self._nodes), len(self._fleet), self._machines.nodes)


LATE = 0.2
"""Share of the time told by which a place may come late and the time was right."""


def _name(replica: int) -> str:
    """As wide as it takes for names to sort as numbers do."""
    return f"{replica:08}"
