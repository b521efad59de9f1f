"""The device of one replica: the blocks of its sessions, a diffusion step at a time, in the scheduler's order."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from liveact_services.denoiser.costs import BlockCosts
from liveact_services.denoiser.scheduler import Block, Scheduler
from liveact_services.independent import independent
from liveact_services.observability.meter import METER
from liveact_services.observability.metrics import STEP_SECONDS
from liveact_services.observability.tracing import TRACING, now_ns
from liveact_services.placement.pins import ReplicaGone

if TYPE_CHECKING:
    import numpy as np

    from liveact_services.conductor.stages import Denoised, Features, SessionSpec
    from liveact_services.denoiser.rank import RankGroup
    from liveact_services.replica import Compute


@dataclass
class _Wanted:
    """What somebody waits for: a block's arguments, its cost so far, and where its latents go."""

    spec: SessionSpec
    block: int
    features: Features
    text: np.ndarray | None
    done: asyncio.Future[Denoised]
    trace: str = ""
    spent_s: float = 0.0
    step: int = 0

    def fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Turns:
    """Shares the one thread of a `Compute` between the sessions' blocks. Whatever else is asked of it runs between two steps."""

    def __init__(self, ranks: RankGroup, compute: Compute, scheduler: Scheduler | None = None) -> None:
        self.costs = BlockCosts()
        self._ranks, self._compute = ranks, compute
        self._scheduler = scheduler or Scheduler()
        self._wanted: dict[Block, _Wanted] = {}
        self._given_up: set[str] = set()
        self._stepping: asyncio.Task[None] | None = None

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
        block_s = self.costs.block_s(spec.width, spec.height) or 0.0
        waiting = Block(spec.session, spec.tenant, spec.weight, due, steps, block_s / steps)
        done: asyncio.Future[Denoised] = asyncio.get_running_loop().create_future()
        self._wanted[waiting] = _Wanted(spec, block, features, text, done, trace)
        self._scheduler.enter(waiting)
        self._wake()
        try:
            return await done
        finally:
            del self._wanted[waiting]
            self._scheduler.leave(waiting)
            if done.cancelled() and waiting.begun:
                self._given_up.add(spec.session)
                self._wake()

    def send_away(self, session: str) -> None:
        """The session begins anew here: whoever waits for a block of it as it was waits no more."""
        for waiting, wanted in self._wanted.items():
            if waiting.session == session:
                self._scheduler.leave(waiting)
                wanted.fail(ReplicaGone("the session began anew while its block was made"))

    def _wake(self) -> None:
        if self._stepping is None or self._stepping.done():
            # It goes on for other sessions when this call has ended.
            self._stepping = independent(self._run())

    async def _run(self) -> None:
        try:
            while self._given_up or len(self._scheduler):
                while self._given_up:
                    await self._compute.run(self._ranks.give_up, self._given_up.pop())
                if (waiting := self._scheduler.next()) is not None:
                    await self._make_step(waiting)
        except BaseException as error:
            # Nobody may be left waiting for a device that has stopped.
            for wanted in self._wanted.values():
                wanted.fail(error)
            raise

    async def _make_step(self, waiting: Block) -> None:
        wanted = self._wanted[waiting]
        first, waiting.begun = not waiting.begun, True
        try:
            denoised, seconds = await self._compute.run(self._step, wanted, first)
        except Exception as error:
            self._scheduler.leave(waiting)
            wanted.fail(error)
            return
        wanted.spent_s += seconds
        self._scheduler.ran(waiting, seconds)
        if denoised is None:
            return
        self._scheduler.leave(waiting)
        # Block 0 is shorter and has nothing to look back at.
        if wanted.block > 0:
            self.costs.record(wanted.spec.width, wanted.spec.height, wanted.spent_s)
        if not wanted.done.done():
            wanted.done.set_result(denoised)

    def _step(self, wanted: _Wanted, first: bool) -> tuple[Denoised | None, float]:
        """One step, on the computing thread; the block's latents with its last."""
        began, began_ns = time.perf_counter(), now_ns()
        session = wanted.spec.session
        if first:
            wanted.step = 0
            self._ranks.begin(session, wanted.block, wanted.features, wanted.text)
        denoised = self._ranks.advance(session)
        seconds = time.perf_counter() - began
        METER.record(STEP_SECONDS, seconds)
        span = TRACING.record("step", wanted.trace, began_ns, now_ns(), step=wanted.step)
        for rank, (rank_began, rank_ended) in enumerate(self._ranks.last_step()):
            TRACING.record("rank", span, rank_began, rank_ended, rank=rank)
        wanted.step += 1
        return denoised, seconds
