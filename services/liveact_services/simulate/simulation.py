"""The events of a day, one after the other: sessions come and go, replicas start, nodes are lost, the policy is asked.

Where a session goes is `placement.fleet`, what a replica admits `placement.holding`, how many replicas there are
`placement.autoscaling`: the code that serves. A client that finds no room asks again, as the service tells it to.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from liveact_services.placement.autoscaling import Observation, ScalingRules, ScalingState, decide
from liveact_services.placement.choose import ReplicaView
from liveact_services.placement.fleet import Fleet
from liveact_services.placement.holding import Admission, Holding
from liveact_services.placement.pins import ASK_AGAIN_S, NoReplica, Pin
from liveact_services.simulate.machines import Hardware, Machines, Node
from liveact_services.simulate.report import Tally
from liveact_services.simulate.workload import Workload


@dataclass(frozen=True)
class Service:
    """How the simulated service behaves; seconds."""

    bound: float = 0.9
    """Sum of utilisations that a replica admits."""
    max_sessions: int = 8
    tick_s: float = 10.0
    """How often the policy hears of the fleet: Serve's replicas report that often."""
    retry_s: float = ASK_AGAIN_S
    """After which a client that found no room asks again."""
    patience_s: float = 60.0
    """How long it does so."""
    block_s: float = 1.6
    """A session moves at a block's end, and `transfer_s` later it is there."""
    transfer_s: float = 0.3
    moves: bool = True
    """Whether surplus replicas are drained by moving their sessions; otherwise they wait for them to end."""


@dataclass(slots=True)
class Session:
    """One session of the workload."""

    name: str
    need: float
    tenant: int
    asked_s: float
    last_s: float
    """How much of it is still to come once it is placed."""
    ends_s: float = 0.0
    replica: int = -1
    """Where it is; -1 while it waits."""
    began_s: float = -1.0
    """When it was first placed."""
    token: int = 0
    """Grows with every placement, as a lease's does."""


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
        admission: Callable[[str], Admission] | None = None,
    ) -> None:
        """`admission` makes what a replica of that name admits by; by default its count and the sum of its utilisations."""
        self.tally = Tally(until_s)
        self._workload, self._rules, self._service, self._until = workload, rules, service, until_s
        self._hardware, self._machines = hardware, Machines(hardware, seed)
        self._random = random.Random(seed + 1)
        self._fleet = Fleet()
        self._state = ScalingState()
        self._holdings: dict[int, Admission] = {}
        self._admission = admission or self._by_utilisation
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
        arrivals = zip(
            range(len(workload)), workload.arrive_s.tolist(), workload.last_s.tolist(), workload.need.tolist(),
            workload.tenant.tolist(), strict=True,
        )  # fmt: skip
        for number, asked, last, need, tenant in arrivals:
            while events and events[0][0] <= asked:
                self._next()
            self._now = asked
            self._arrive(Session(str(number), need, tenant, asked, last))
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

    # ---- sessions ----------------------------------------------------------------------------------------------------------

    def _arrive(self, session: Session) -> None:
        tenant = session.tenant
        self.tally.asked(session)
        if self._of_tenant[tenant] >= self._workload.quota[tenant]:
            self.tally.over_quota(session)
            return
        self._of_tenant[tenant] += 1
        self._sessions[session.name] = session
        if not self._place(session):
            self._wait(session)

    def _place(self, session: Session) -> bool:
        """Put it on the first replica that the router names; whether there was one."""
        try:
            replica = self._fleet.choose(Pin(session.name), session.need)
        except NoReplica:
            return False
        self._settle(session, int(replica))
        return True

    def _settle(self, session: Session, replica: int) -> None:
        session.token += 1
        holding = self._holdings[replica]
        holding.admit(session.name, session.token, session.need)
        self._fleet.update(_name(replica), held=holding.used)
        if session.began_s < 0:
            session.began_s = self._now
            self.tally.placed(session)
        if session.replica < 0:
            session.ends_s = self._now + session.last_s
            self._at(session.ends_s, self._end, session)
        session.replica = replica

    def _wait(self, session: Session) -> None:
        session.asked_s = self._now if session.began_s >= 0 else session.asked_s
        self._waiting += session.need
        self._at(self._now + self._service.retry_s, self._retry, session)

    def _retry(self, session: Session) -> None:
        self._waiting -= session.need
        if self._place(session):
            return
        if self._now - session.asked_s < self._service.patience_s:
            self._waiting += session.need
            self._at(self._now + self._service.retry_s, self._retry, session)
        else:
            self._forget(session)
            if session.began_s < 0:
                self.tally.refused(session)
            else:
                self.tally.lost(session, self._now)

    def _end(self, session: Session) -> None:
        # One that was lost with its node meanwhile ends later, and that end is on its way.
        if session.replica >= 0 and self._now >= session.ends_s:
            self._leave(session)
            self._forget(session)
            session.replica = -1
            self.tally.served(session, self._now)

    def _leave(self, session: Session) -> None:
        holding = self._holdings[session.replica]
        holding.release(session.name, session.token)
        self._fleet.update(_name(session.replica), held=holding.used)

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
        try:
            other = int(self._fleet.choose(Pin(session.name), session.need))
        except NoReplica:
            self._at(self._now + self._service.retry_s, self._move, moving)
            return
        self._leave(session)
        self._settle(session, other)
        self.tally.moved(self._now)

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
        self._holdings[replica] = self._admission(_name(replica))
        draining = self._nodes[replica].leaving
        self._fleet.add(ReplicaView(_name(replica), self._now, 0.0, self._service.bound, draining))
        if draining:
            self._leaving.add(replica)

    def _by_utilisation(self, name: str) -> Admission:
        return Holding(name, max_sessions=self._service.max_sessions, bound=self._service.bound)

    def _stop(self, replica: int) -> None:
        """It is there no more; its sessions were moved or are lost."""
        self._count()
        node = self._nodes.pop(replica)
        if replica in self._starting:
            del self._starting[replica]
        else:
            self._fleet.remove(_name(replica))
            del self._holdings[replica]
            self._surplus.discard(replica)
            self._leaving.discard(replica)
        self._machines.stop(replica, node)

    def _drain(self, replica: int) -> None:
        self._fleet.update(_name(replica), draining=True)
        for name in self._holdings[replica].sessions:
            at = self._now + self._random.random() * self._service.block_s + self._service.transfer_s
            self._at(at, self._move, (self._sessions[name], replica))

    # ---- nodes -------------------------------------------------------------------------------------------------------------

    def _announce(self, node: Node) -> None:
        """A reclaimed node's end is told in advance; a broken one's is not."""
        if node.gone:
            return
        if node.spot:
            node.leaving = True
            for replica in sorted(node.replicas & self._holdings.keys()):
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
            if replica in self._holdings:
                bereft += [self._sessions[name] for name in self._holdings[replica].sessions]
            self._stop(replica)
        for session in bereft:
            # Another replica adopts its last export.
            session.last_s = session.ends_s - self._now
            session.replica = -1
            if self._place(session):
                self.tally.moved(self._now)
            else:
                self._wait(session)

    # ---- the policy --------------------------------------------------------------------------------------------------------

    def _tick(self, nothing: None) -> None:
        self._at(self._now + self._service.tick_s, self._tick, None)
        starting = len(self._starting)
        seen = Observation(
            now=self._now, asked=starting + len(self._fleet), admitted=max(0.0, self._fleet.held),
            waiting=max(0.0, self._waiting), per_replica=self._service.bound, draining=len(self._leaving),
            idle_newest=starting + self._fleet.idle_newest(),
        )  # fmt: skip
        decision, self._state = decide(self._rules, seen, self._state)
        for _ in range(seen.asked, decision.target):
            self._start()
        for _ in range(decision.target, seen.asked):
            self._stop(next(reversed(self._starting)) if self._starting else self._newest())
        self._thin_out(decision.surplus if self._service.moves else 0)

    def _newest(self) -> int:
        return int(next(self._fleet.newest_first()).id)

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
            self._fleet.update(_name(replica), draining=False)
        fresh = sorted(wanted - self._surplus)
        self._surplus = wanted
        for replica in fresh:
            self._drain(replica)

    def _count(self) -> None:
        """Before the number of replicas or nodes changes: so long they were so many."""
        self.tally.stood(self._now, len(self._nodes), len(self._fleet), self._machines.nodes)


def _name(replica: int) -> str:
    """As wide as it takes for names to sort as numbers do."""
    return f"{replica:08}"
