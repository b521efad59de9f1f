"""Denoiser: holds the ConvKV sessions and denoises their blocks, step by step, in the order in which they are due."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from liveact_services.block_order import BlockOrder
from liveact_services.conductor.parts import Part
from liveact_services.conductor.stages import Boundary, Denoised, Features, SessionSpec
from liveact_services.denoiser.admission import GATHERED_S, Admission
from liveact_services.denoiser.rank import Conditions, RankGroup
from liveact_services.denoiser.rank_group import start_ranks
from liveact_services.denoiser.turns import Turns
from liveact_services.denoiser.warm_up import warm_up
from liveact_services.observability.meter import METER
from liveact_services.observability.metrics import SESSION_MEMORY
from liveact_services.observability.tracing import TRACING, now_ns
from liveact_services.replica import measure_stage, replica_id
from liveact_services.stateful import StatefulReplica
from liveact_services.tenants.tenant import DEFAULT_POOL
from liveact_services.vault.exporter import Snapshot

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from liveact_services.config import ServiceConfig

log = logging.getLogger(__name__)


@dataclass
class _Held:
    """One session here."""

    spec: SessionSpec
    order: BlockOrder = field(default_factory=BlockOrder)
    left: bool = False
    """Whether it was handed over, and nothing was made of it here since."""


class Denoiser(StatefulReplica[_Held]):
    """Coordinator of one rank group. Its own admission check is the last word on how many sessions it holds."""

    def __init__(self, config: ServiceConfig, pool: str = DEFAULT_POOL, vault: DeploymentHandle | None = None) -> None:
        limits = config.sessions
        stage = config.denoisers[pool]
        super().__init__(config, stage, limits.max_sessions, Part.DENOISER, vault, pool)
        self._ranks: RankGroup = start_ranks(self, stage)
        if stage.num_gpus > 0:
            log.info("warm after %.1f s", warm_up(self._ranks, self.model_config))
        self._turns = Turns(self._ranks, self.compute)
        self._admission = Admission(
            limits.max_sessions, limits.max_utilisation, self._turns.costs, self._ranks.memory_of
        )  # fmt: skip

    async def open(
        self, spec: SessionSpec, text: np.ndarray, clip: np.ndarray, reference: np.ndarray, attempt: int = 0
    ) -> str:
        """Admit a session and give this replica's id, to which it is pinned from now on.

        Raises `ReplicaFull` when the device has no time or memory for it, when as many sessions are held as the config allows,
        or when it is drained, and `Superseded` after a later attempt.
        """
        self._come(spec, attempt)
        async with self._admitted(spec) as held:
            await self.compute.run(self._ranks.open, spec, Conditions(text, clip, reference))
            held.order = BlockOrder(0, attempt)
        return replica_id()

    async def adopt(self, spec: SessionSpec, exported: bytes, attempt: int = 0) -> str:
        """Go on from an export, here, whether the session was held, parked or elsewhere; gives this replica's id.

        Raises `StateError` for an export that cannot be adopted, `ReplicaFull` and `Superseded` as `open` does.
        """
        self._come(spec, attempt)
        async with self._admitted(spec) as held:
            block = await self.compute.run(self._ranks.adopt, spec, exported)
            held.order = BlockOrder(block, attempt)
        return replica_id()

    async def settle(self, session: str, attempt: int) -> int:
        """Begin an attempt: send away the blocks that wait, but finish the one being denoised; gives the block that is next.

        Raises `ReplicaGone` for a session not held here, and `Superseded` after a later attempt.
        """
        self._fence.enter(session, attempt)
        order = self._held(session).order
        order.supersede(attempt)
        await order.idle()
        # A call that was cancelled gave its turn back, and its block may have been at its last step.
        order.put_at(await self.compute.run(self._ranks.position, session))
        return order.next_block

    def filled(self) -> tuple[float, float]:
        """What its sessions take of it and what it has, in small sessions, by what the admission measured."""
        return self._admission.filled

    def unit(self) -> float:
        """The size of a small session."""
        return self._admission.unit

    def waiting(self) -> float:
        """What the clients that were told to come back here would take, in full replicas."""
        return self._admission.waiting

    async def hand_over(self, session: str, attempt: int) -> Boundary:
        """Begin an attempt as `settle` does, and put the session's value into the Vault. It stays here until it is closed.

        Raises `ReplicaGone` for a session not held here, and `Superseded` after a later attempt.
        """
        held, asked = self._held(session), time.monotonic()
        block = await self.settle(session, attempt)
        finishing_s = time.monotonic() - asked
        saved = await self._exporter.deliver(session, block, self._snapshot(held), attempt, held.spec.trace)
        held.left = True
        return Boundary(block, saved, finishing_s)

    async def expect(self, spec: SessionSpec, retry_after_s: float) -> None:
        """A session that was refused has been told to come back here: whoever is refused next is told to come after it."""
        self._admission.expect(spec, retry_after_s)

    async def make_room(self, spec: SessionSpec, elsewhere: list[float]) -> float | None:
        """Have sessions leave for one that was refused; the seconds until it has a place, or None where that cannot be done.

        They are asked to by the calls that hold them. `elsewhere`: pieces of room that other replicas have, in sizes.
        """
        if self._draining:
            return None
        room = await self.compute.run(self._ranks.room)
        leave = self._admission.make_room(spec, elsewhere, room)
        for session in leave:
            self._sessions[session].order.ask_away()
            log.info("leaves, to make room for %s", spec.session, extra={"session_id": session})
        return GATHERED_S if leave else None

    async def denoise(
        self,
        session: str,
        block: int,
        features: Features,
        text: np.ndarray | None,
        attempt: int = 0,
        due_s: float | None = None,
        trace: str = "",
    ) -> Denoised:
        """The block's latents; waits for the blocks before it. Raises `ReplicaGone` for a session not held here.

        `due_s`: seconds, when the block was submitted, until they were wanted; None: they are made in the background.
        """
        held = self._held(session)
        due = None if due_s is None else time.monotonic() + due_s - features.held_s
        asked = now_ns()
        span = TRACING.begin("denoise", trace, asked, block=block, pool=self.pool)
        try:
            async with held.order.turn(block, attempt):
                held.left = False
                denoised = await self._turns.denoise(held.spec, block, features, text, due, span.trace)
                self._offer(session, held, block + 1, attempt, trace)
        except BaseException as error:
            span.end(error)
            raise
        wait_s = measure_stage("denoise", asked, denoised.denoise_s)
        span.end(wait_s=wait_s, work_s=denoised.denoise_s)
        return denoised

    async def export(self, session: str) -> bytes:
        """The Denoiser's part of the session's value, at the present block boundary."""
        self._held(session)
        return await self.compute.run(self._ranks.export, session)

    async def close(self, session: str, attempt: int | None = None) -> None:
        """Forget a session; closing one twice, or one never held, is no error. Raises `Superseded` after a later attempt."""
        if attempt is not None:
            self._fence.enter(session, attempt)
        held = self._sessions.get(session)
        # One that was handed over has not ended, it goes on elsewhere.
        if self._forget(session, ended=held is None or not held.left):
            await self.compute.run(self._ranks.close, session)

    def _forget(self, session: str, ended: bool = True) -> bool:
        """Send away what waits of the session and give its place back; False when it is not held.

        `ended`: it has lasted as long as it was to, so that its length says something.
        """
        held = self._sessions.pop(session, None)
        if held is None:
            return False
        held.order.close()
        self._exporter.forget(session)
        self._admission.release(session, ended)
        return True

    @asynccontextmanager
    async def _admitted(self, spec: SessionSpec) -> AsyncIterator[_Held]:
        """A place for the session, given back if it does not come to hold it.

        Raises `ReplicaFull`, but not for a session that is here already, drained or not.
        """
        await self._sweep()
        room = await self.compute.run(self._ranks.room)
        if (known := self._sessions.get(spec.session)) is not None:
            known.order.close()
            self._turns.send_away(spec.session)
        else:
            # A drained replica takes nobody later either: it tells no time.
            if not self._draining and (refusal := self._admission.refusal(spec, room)) is not None:
                self.turn_away(spec.session, refusal.retry_after_s)
            self.require_room(spec.session)
            self._admission.admit(spec)
        held = self._sessions[spec.session] = _Held(spec)
        try:
            yield held
        except BaseException:
            self._forget(spec.session, ended=False)
            await self.compute.run(self._ranks.close, spec.session)
            raise

    def _measure(self, filled: float, capacity: float) -> None:
        super()._measure(filled, capacity)
        if specs := [held.spec for held in self._sessions.values()]:
            memory = sum(map(self._ranks.memory_of, specs)) / len(specs)
            METER.record(SESSION_MEMORY, memory, pool=self.pool)

    def _snapshot(self, held: _Held) -> Snapshot:
        return self._ranks.snapshot(held.spec.session)

    async def _sweep(self) -> None:
        """Drop the sessions whose Gateway has died."""
        for session in self._abandoned():
            await self.close(session)
