"""A Denoiser replica on a simulated clock: the real scheduler and play clocks; only the device and the clients are made up.

Nothing waits and nothing computes here: an hour of a busy replica takes seconds, and the same seed gives the same hour.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from liveact_services.conductor.clock import PlayClock
from liveact_services.conductor.conductor import IN_FLIGHT
from liveact_services.conductor.stages import Codec, Idle, Pacing, SessionSpec
from liveact_services.denoiser.costs import BlockCosts
from liveact_services.denoiser.scheduler import Block, Scheduler

STEPS = 3


@dataclass(frozen=True)
class Device:
    """What the simulated device is like."""

    pixel_s: float = 0.2 / (512 * 512)
    """Seconds of a block a pixel of its frames."""
    jitter: float = 0.05
    """Spread of a step's time, relative, as a normal distribution's."""
    hiccup: float = 0.002
    """Share of steps that take three times as long."""
    tail_s: float = 0.03
    """From a block's latents to its first frame at the viewer."""

    def step_s(self, spec: SessionSpec, random: Random) -> float:
        """One step's time."""
        slow = 3.0 if random.random() < self.hiccup else 1.0
        return self.pixel_s * spec.width * spec.height / STEPS * slow * max(0.5, random.gauss(1.0, self.jitter))

    def block_s(self, spec: SessionSpec, random: Random) -> float:
        """One block's time."""
        return sum(self.step_s(spec, random) for _ in range(STEPS))


@dataclass(eq=False)
class Session:
    """One simulated session, its viewer, and what became of it."""

    spec: SessionSpec
    clock: PlayClock
    opened: float
    length_s: float
    in_voice: float
    """Share of its blocks whose sound is known early; the others are started as late as the play clock allows."""
    submitted: int = 0
    delivered: int = 0
    in_time: int = 0
    """Blocks after the first that were shown when they were due."""
    device_s: float = 0.0
    counted_s: float = 0.0
    """Of it, up to the last finished block."""
    longest_wait_s: float = 0.0
    """For one block, from its submission to its latents."""
    over: bool = False
    queue: list[tuple[int, float, float | None]] = field(default_factory=list)
    """Blocks submitted and not finished: number, when, when due."""
    planned: bool = False
    """Whether its next submission stands in the calendar."""

    @property
    def due_blocks(self) -> int:
        """Blocks delivered for which a viewer waited for a moment."""
        return max(0, self.delivered - 1) if self.spec.pacing is Pacing.REALTIME else 0


class Calendar:
    """What happens when, and the clock that jumps from one to the next."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._count = itertools.count()

    def __call__(self) -> float:
        return self.now

    def at(self, moment: float, what: Callable[[], object]) -> None:
        heapq.heappush(self._events, (max(moment, self.now), next(self._count), what))

    def run(self, until: float) -> None:
        """Everything up to that moment."""
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = until


class SimulatedReplica:
    """Sessions at one device. It does what `Turns` does, event by event."""

    def __init__(self, calendar: Calendar, device: Device, seed: int, scheduler: Scheduler | None = None) -> None:
        self.calendar, self.device = calendar, device
        self.costs = BlockCosts()
        self.scheduler = scheduler or Scheduler(now=calendar)
        self.sessions: list[Session] = []
        self.slowness = 1.0
        """Factor on every step's time: a neighbour took part of the device."""
        self.ended: Callable[[Session], None] = lambda session: None
        self._random = Random(seed)
        self._owners: dict[Block, Session] = {}
        self._busy = False

    def open(self, spec: SessionSpec, length_s: float, in_voice: float = 0.5) -> Session:
        """A session performs from now on for so long; it ends after the block it is at."""
        session = Session(spec, PlayClock(spec.fps, self.calendar), self.calendar(), length_s, in_voice)
        self.sessions.append(session)
        self.calendar.at(self.calendar() + length_s, lambda: self._end(session))
        self._plan(session)
        return session

    def _end(self, session: Session) -> None:
        session.over = True
        for block in [b for b, owner in self._owners.items() if owner is session]:
            self.scheduler.leave(block)
            del self._owners[block]
        self.ended(session)

    # ---- what the Conductor does -------------------------------------------------------------------------------------------

    def _plan(self, session: Session) -> None:
        """Put the session's next submission into the calendar."""
        if session.planned or session.over or len(session.queue) >= IN_FLIGHT:
            return
        block = session.submitted
        at = self.calendar()
        if session.spec.pacing is Pacing.REALTIME:
            early = session.clock.earliest(block)
            known = self._random.random() < session.in_voice
            at = early if known else max(early, session.clock.latest(block))
            if at == float("inf"):
                return  # asked again when something is delivered
        session.planned = True
        self.calendar.at(at, lambda: self._submit(session))

    def _submit(self, session: Session) -> None:
        session.planned = False
        if session.over:
            return
        now = self.calendar()
        due = now + session.clock.due_s(session.submitted) if session.spec.pacing is Pacing.REALTIME else None
        session.queue.append((session.submitted, now, due))
        session.submitted += 1
        if len(session.queue) == 1:
            self._enter(session)
        self._plan(session)

    def _deliver(self, session: Session, block: int, submitted: float) -> None:
        if session.over:
            return
        stalls = session.clock.stalls
        session.clock.delivered(block, submitted, self.device.tail_s)
        session.delivered += 1
        realtime = session.spec.pacing is Pacing.REALTIME
        session.in_time += realtime and block > 0 and session.clock.stalls == stalls
        self._plan(session)

    # ---- what the replica does ---------------------------------------------------------------------------------------------

    def _enter(self, session: Session) -> None:
        spec, (_, _, due) = session.spec, session.queue[0]
        step_s = (self.costs.block_s(spec.width, spec.height) or 0.0) / STEPS
        block = Block(spec.session, spec.tenant, spec.weight, due, STEPS, step_s)
        self._owners[block] = session
        self.scheduler.enter(block)
        self._step()

    def _step(self) -> None:
        block = None if self._busy else self.scheduler.next()
        if block is None:
            return
        self._busy = True
        seconds = self.device.step_s(self._owners[block].spec, self._random) * self.slowness
        owner = self._owners[block]
        self.calendar.at(self.calendar() + seconds, lambda: self._stepped(block, owner, seconds))

    def _stepped(self, block: Block, session: Session, seconds: float) -> None:
        self._busy = False
        self.scheduler.ran(block, seconds)
        session.device_s += seconds
        if block.steps == 0 and not session.over:
            self.scheduler.leave(block)
            del self._owners[block]
            self._finished(session)
        self._step()

    def _finished(self, session: Session) -> None:
        number, submitted, _ = session.queue.pop(0)
        now, spec = self.calendar(), session.spec
        session.longest_wait_s = max(session.longest_wait_s, now - submitted)
        if number > 0:
            self.costs.record(spec.width, spec.height, session.device_s - session.counted_s)
        session.counted_s = session.device_s
        self.calendar.at(now + self.device.tail_s, lambda: self._deliver(session, number, submitted))
        if session.queue:
            self._enter(session)


def simulated_spec(
    name: str,
    tenant: str = "default",
    weight: float = 1.0,
    *,
    side: int = 512,
    height: int | None = None,
    fps: int = 20,
    fastest: bool = False,
    seed: int = 0,
) -> SessionSpec:
    """A session of that tenant, square unless a height is given."""
    return SessionSpec(
        session=name, width=side, height=height or side, fps=fps, codec=Codec.H264,
        pacing=Pacing.FASTEST if fastest else Pacing.REALTIME, idle=Idle.ANIMATE, seed=seed, prompt="", rate=16000,
        tenant=tenant, weight=weight,
    )  # fmt: skip
