"""What the scheduler and the admission make of an offered load, on the simulated device (`simulation.py`)."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from random import Random

from liveact_services.conductor.stages import Pacing, SessionSpec
from liveact_services.denoiser.admission import PATIENCE_S, Admission
from liveact_services.denoiser.simulation import Calendar, Device, Session, SimulatedReplica, simulated_spec
from liveact_services.placement.pins import ASK_AGAIN_S


@dataclass(frozen=True)
class Tenant:
    """One tenant's sessions."""

    name: str
    weight: float
    length_s: float
    """How long they last."""
    side: int = 384
    fps: int = 20


TENANTS = (Tenant("bronze", 1, 45.0), Tenant("silver", 2, 60.0, fps=25), Tenant("gold", 4, 90.0, side=512))
SPREAD = 0.02
"""Of the lengths of one tenant's sessions, in the logarithm: their lengths are known from history. At 1 they are heavy-tailed."""
LATE = 0.2
"""Share of the time told by which a retry time may be late and is still right."""
WARM_S = 120.0
"""Until the first lengths are known and the replica is full; not counted. Heavy-tailed ones take ten times as long to know."""
WHOLE_S = 20.0
"""A shorter session is made of so few blocks that its share of the device cannot be as even as others'."""


@dataclass(frozen=True)
class Admitted:
    """What became of an offered load behind the admission."""

    load: float
    """Offered device time as a share of the device."""
    admitted: int
    refused: int
    utilisation: float
    """Share of the device's time that was used."""
    due_blocks: int
    in_time: int
    came_back: int
    """Clients that were refused, and came back when they were told."""
    let_in: int
    """Of these, those that were taken then, or before a fifth of the time told had passed again."""
    fairness: float
    """The least Jain index of device time a second among the sessions of one tenant."""

    @property
    def in_time_share(self) -> float:
        return self.in_time / self.due_blocks if self.due_blocks else 1.0

    @property
    def retry_right(self) -> float:
        """Share of the retry times that were right within 20 %."""
        return self.let_in / self.came_back if self.came_back else 1.0


@dataclass(frozen=True)
class Shared:
    """What became of a load that nobody was refused."""

    load: float
    shares: dict[str, float]
    """Of the device's time, by tenant."""
    fair: dict[str, float]
    """What weights and wishes say they should be."""
    fairness: float
    longest_wait_s: float

    @property
    def deviation(self) -> float:
        """The largest of |share - fair| / fair."""
        return max(abs(self.shares[name] - fair) / fair for name, fair in self.fair.items())


class OfferedLoad:
    """Clients that come at random moments; those refused come back when they were told, if it was to be soon."""

    def __init__(
        self,
        load: float,
        seed: int,
        max_utilisation: float = 0.85,
        tenants: tuple[Tenant, ...] = TENANTS,
        spread: float = SPREAD,
    ) -> None:
        """`load`: 1 offers as much work as the device could just do. `spread`: of lengths, log-normal."""
        self.load, self.tenants, self._spread = load, tenants, spread
        self._random = Random(seed)
        self.calendar = Calendar()
        self.replica = SimulatedReplica(self.calendar, Device(), seed)
        self.replica.ended = self._ended
        self.admission = Admission(64, max_utilisation, self.replica.costs, lambda spec: 0, self.calendar)
        self._count = self.refused = self.came_back = self.let_in = 0
        self._warm_up_costs()

    def run(self, seconds: float) -> Admitted:
        """So long, after the warm-up."""
        for tenant in self.tenants:
            self._come_later(tenant)
        warm_s = WARM_S * (1 + 9 * min(1.0, self._spread))
        self.calendar.run(warm_s)
        self.refused = self.came_back = self.let_in = 0
        before = len(self.replica.sessions)
        used = sum(s.device_s for s in self.replica.sessions)
        self.calendar.run(warm_s + seconds)
        sessions = self.replica.sessions[before:]
        return Admitted(
            self.load, len(sessions), self.refused,
            (sum(s.device_s for s in self.replica.sessions) - used) / seconds,
            sum(s.due_blocks for s in sessions), sum(s.in_time for s in sessions),
            self.came_back, self.let_in, fairness([s for s in sessions if s.over and s.length_s >= WHOLE_S]),
        )  # fmt: skip

    def _warm_up_costs(self) -> None:
        """A replica has made a few blocks before it serves anybody."""
        for tenant in self.tenants:
            spec = self._spec(tenant)
            self.replica.costs.record(spec.width, spec.height, 3 * self.replica.device.step_s(spec, self._random))

    def _spec(self, tenant: Tenant) -> SessionSpec:
        self._count += 1
        return simulated_spec(
            f"{tenant.name}{self._count}", tenant.name, tenant.weight, side=tenant.side, fps=tenant.fps, seed=self._count
        )  # fmt: skip

    def _come_later(self, tenant: Tenant) -> None:
        # Every tenant offers the same share of the load.
        each = demand(tenant) * tenant.length_s
        rate = self.load / len(self.tenants) / each
        self.calendar.at(self.calendar() + self._random.expovariate(rate), lambda: self._come(tenant))

    def _come(self, tenant: Tenant) -> None:
        self._come_later(tenant)
        spec = self._spec(tenant)
        refusal = self.admission.refusal(spec)
        if refusal is None:
            self._open(spec, tenant)
            return
        self.refused += 1
        told = ASK_AGAIN_S if refusal.retry_after_s is None else refusal.retry_after_s
        self.admission.expect(spec, told)
        if told <= PATIENCE_S:
            latest = self.calendar() + (1 + LATE) * told
            self.calendar.at(self.calendar() + told, lambda: self._come_back(spec, tenant, latest))

    def _come_back(self, spec: SessionSpec, tenant: Tenant, latest: float) -> None:
        """At the time told; where there is no room, at the time told now, as long as that is not much later."""
        refusal = self.admission.refusal(spec)
        told = 0.0 if refusal is None else ASK_AGAIN_S if refusal.retry_after_s is None else refusal.retry_after_s
        at = self.calendar() + told
        if refusal is None:
            self.came_back += 1
            self.let_in += 1
            self._open(spec, tenant)
        elif at > latest:
            self.came_back += 1
        else:
            self.admission.expect(spec, told)
            self.calendar.at(at, lambda: self._come_back(spec, tenant, latest))

    def _open(self, spec: SessionSpec, tenant: Tenant) -> None:
        self.admission.admit(spec)
        # Log-normal, of the tenant's mean.
        length_s = tenant.length_s * math.exp(self._random.gauss(-(self._spread**2) / 2, self._spread))
        self.replica.open(spec, length_s, in_voice=self._random.random())

    def _ended(self, session: Session) -> None:
        self.admission.release(session.spec.session)


def shared(load: float, seed: int, seconds: float, tenants: tuple[Tenant, ...] = TENANTS) -> Shared:
    """Sessions of all tenants, each tenant's as many as ask for the same part of the load, nobody refused."""
    calendar = Calendar()
    replica = SimulatedReplica(calendar, Device(), seed)
    random = Random(seed)
    wishes = {}
    for tenant in tenants:
        count = max(2, round(load / len(tenants) / demand(tenant)))
        wishes[tenant.name] = count * demand(tenant)
        for n in range(count):
            spec = simulated_spec(
                f"{tenant.name}{n}", tenant.name, tenant.weight, side=tenant.side, fps=tenant.fps
            )  # fmt: skip
            calendar.at(random.uniform(0, 3), partial(replica.open, spec, 1e9))
    calendar.run(10.0)
    before = {s: s.device_s for s in replica.sessions}
    calendar.run(10.0 + seconds)
    shares: dict[str, float] = defaultdict(float)
    for session in replica.sessions:
        shares[session.spec.tenant] += (session.device_s - before[session]) / seconds
    return Shared(
        load, dict(shares), fair_shares(wishes, {t.name: t.weight for t in tenants}), fairness(replica.sessions),
        max(s.longest_wait_s for s in replica.sessions),
    )  # fmt: skip


def demand(tenant: Tenant) -> float:
    """The device's time that one session of the tenant asks for, as a share."""
    from liveact_models.timeline import block_seconds

    return Device().pixel_s * tenant.side**2 / block_seconds(1, tenant.fps)


def fair_shares(wishes: dict[str, float], weights: dict[str, float]) -> dict[str, float]:
    """Weighted max-min shares of one device: nobody gets more than it wishes, what is left goes by weight."""
    shares: dict[str, float] = {}
    left, open_ = 1.0, dict(wishes)
    while open_:
        unit = left / sum(weights[name] for name in open_)
        content = [name for name, wish in open_.items() if wish <= unit * weights[name]]
        for name in content or list(open_):
            shares[name] = open_.pop(name) if content else unit * weights[name]
        left = 1.0 - sum(shares.values())
        if not content:
            break
    return shares


def fairness(sessions: list[Session]) -> float:
    """The least Jain index of device seconds a second of the session, among the sessions of one tenant and kind."""
    alike: dict[tuple[str, Pacing], list[float]] = defaultdict(list)
    for session in sessions:
        alike[session.spec.tenant, session.spec.pacing].append(session.device_s / session.length_s)
    return min((jain(values) for values in alike.values()), default=1.0)


def jain(values: list[float]) -> float:
    """Jain's index of fairness: 1 when all are equal, 1/n when one has everything."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0
