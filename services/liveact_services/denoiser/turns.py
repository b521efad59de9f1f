"""The devices of one replica: the blocks of its sessions, a diffusion step at a time, in the scheduler's order."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from liveact_services.denoiser.costs import BlockCosts
from liveact_services.denoiser.scheduler import Block, Scheduler
from liveact_services.independent import independent
from liveact_services.observability.meter import METER
from liveact_services.observability.metrics import STEP_SECONDS
from liveact_services.observability.tracing import TRACING, now_ns
from liveact_services.placement.pins import ReplicaGone
from liveact_services.replica import Compute

if TYPE_CHECKING:
    import numpy as np

    from liveact_services.conductor.stages import Denoised, Features, SessionSpec
    from liveact_services.denoiser.rank import RankGroup


@dataclass(eq=False)
class _Lane:
    """What makes one step at a time: a thread, and the blocks that wait for it."""

    compute: Compute
    scheduler: Scheduler
    waiting: dict[Block, _Wanted] = field(default_factory=dict)
    given_up: set[str] = field(default_factory=set)
    """Sessions whose begun blocks nobody wants any more."""
    stepping: asyncio.Task[None] | None = None


@dataclass(eq=False)
class _Wanted:
    """What somebody waits for: a block's arguments, how far it is, and where its latents go."""

    spec: SessionSpec
    block: int
    features: Features
    text: np.ndarray | None
    due: float | None
    trace: str
    done: asyncio.Future[Denoised]
    step_s: float
    """What a step is expected to take."""
    to_do: list[tuple[_Lane, int]]
    """The lanes it has yet to go through, with the steps it is made there, the present one first."""
    place: Block | None = None
    """It, as the present lane's scheduler knows it."""
    begun: bool = False
    step: int = 0
    spent_s: defaultdict[_Lane, float] = field(default_factory=lambda: defaultdict(float))

    def enter(self) -> _Lane:
        """Wait at the next lane."""
        (lane, steps), *later = self.to_do
        due = None if self.due is None else self.due - self.step_s * sum(steps for _, steps in later)
        spec = self.spec
        self.place = Block(spec.session, spec.tenant, spec.weight, due, steps, self.step_s, self.begun)
        lane.waiting[self.place] = self
        lane.scheduler.enter(self.place)
        return lane

    def leave(self) -> None:
        """Wait no more; leaving twice is no error."""
        if self.place is not None:
            lane, _ = self.to_do[0]
            lane.waiting.pop(self.place, None)
            lane.scheduler.leave(self.place)

    def fail(self, error: BaseException) -> None:
        self.leave()
        if not self.done.done():
            self.done.set_exception(error)


class Turns:
    """Shares the lanes of a replica's ranks between the sessions' blocks: one, or one a diffusion step.

    A single lane is the one thread of the replica's `Compute`: whatever else is asked of that runs between two steps.
    """

    def __init__(self, ranks: RankGroup, compute: Compute, scheduler: Scheduler | None = None) -> None:
        self.costs = BlockCosts()
        self._ranks = ranks
        if ranks.lanes == 1:
            self._lanes = [_Lane(compute, scheduler or Scheduler())]
        else:
            self._lanes = [_Lane(Compute(f"lane {number}"), Scheduler()) for number in range(ranks.lanes)]

    async def denoise(
        self,
        spec: SessionSpec,
        block: int,
        features: Features,
        text: np.ndarray | None,
        due: float | None,
        trace: str = "",
    ) -> Denoised:
        """The block's latents. `due`: when they are to be there, on this process's monotonic clock; None: background.

        One block of a session at a time. A block that fails, or is given up before its last step, leaves the session as it was.
        """
        steps = self._ranks.steps(spec.session)
        to_do = [(self._lanes[0], steps)] if len(self._lanes) == 1 else [(lane, 1) for lane in self._lanes]
        step_s = (self.costs.block_s(spec.width, spec.height) or 0.0) / to_do[0][1]
        done: asyncio.Future[Denoised] = asyncio.get_running_loop().create_future()
        wanted = _Wanted(spec, block, features, text, due, trace, done, step_s, to_do)
        self._wake(wanted.enter())
        try:
            return await done
        finally:
            wanted.leave()
            if done.cancelled() and wanted.begun:
                # The lane where blocks begin: the session's next one will find it given up.
                self._lanes[0].given_up.add(spec.session)
                self._wake(self._lanes[0])

    def send_away(self, session: str) -> None:
        """The session begins anew here: whoever waits for a block of it as it was waits no more."""
        for lane in self._lanes:
            for wanted in list(lane.waiting.values()):
                if wanted.spec.session == session:
                    wanted.fail(ReplicaGone("the session began anew while its block was made"))

    def _wake(self, lane: _Lane) -> None:
        if lane.stepping is None or lane.stepping.done():
            # It goes on for other sessions when this call has ended.
            lane.stepping = independent(self._run(lane))

    async def _run(self, lane: _Lane) -> None:
        try:
            while lane.given_up or len(lane.scheduler):
                while lane.given_up:
                    await lane.compute.run(self._ranks.give_up, lane.given_up.pop())
                if (place := lane.scheduler.next()) is not None:
                    await self._make_step(lane, place)
        except BaseException as error:
            # Nobody may be left waiting for a device that has stopped.
            for wanted in list(lane.waiting.values()):
                wanted.fail(error)
            raise

    async def _make_step(self, lane: _Lane, place: Block) -> None:
        wanted = lane.waiting[place]
        first, wanted.begun, place.begun = not wanted.begun, True, True
        try:
            denoised, seconds = await lane.compute.run(self._step, wanted, first)
        except Exception as error:
            wanted.fail(error)
            return
        wanted.spent_s[lane] += seconds
        lane.scheduler.ran(place, seconds)
        if denoised is not None:
            self._finish(wanted, denoised)
        elif not place.steps and not wanted.done.done():
            wanted.leave()
            wanted.to_do.pop(0)
            self._wake(wanted.enter())

    def _finish(self, wanted: _Wanted, denoised: Denoised) -> None:
        wanted.leave()
        # Block 0 is shorter and has nothing to look back at.
        if wanted.block > 0:
            self.costs.record(wanted.spec.width, wanted.spec.height, max(wanted.spent_s.values()))
        if not wanted.done.done():
            wanted.done.set_result(denoised)

    def _step(self, wanted: _Wanted, first: bool) -> tuple[Denoised | None, float]:
        """One step, on the lane's thread; the block's latents with its last."""
        began, began_ns = time.perf_counter(), now_ns()
        session = wanted.spec.session
        if first:
            wanted.step = 0
            self._ranks.begin(session, wanted.block, wanted.features, wanted.text)
        denoised = self._ranks.advance(session)
        seconds = time.perf_counter() - began
        METER.record(STEP_SECONDS, seconds)
        span = TRACING.record("step", wanted.trace, began_ns, now_ns(), step=wanted.step)
        for rank, rank_began, rank_ended in self._ranks.last_step(session):
            TRACING.record("rank", span, rank_began, rank_ended, rank=rank)
        wanted.step += 1
        return denoised, seconds
