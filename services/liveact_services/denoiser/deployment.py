"""Denoiser: holds the ConvKV sessions and denoises their blocks, one at a time, in the order they come."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import numpy as np

from liveact_services.block_order import BlockOrder
from liveact_services.conductor.parts import Part
from liveact_services.conductor.stages import Denoised, Features, SessionSpec
from liveact_services.denoiser.rank import Conditions, LocalRank, RankGroup
from liveact_services.placement.pins import ReplicaGone
from liveact_services.replica import replica_id
from liveact_services.stateful import StatefulReplica
from liveact_services.tenants.tenant import DEFAULT_POOL
from liveact_services.vault.exporter import Exporter, put_into

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from liveact_services.config import ServiceConfig


class Denoiser(StatefulReplica):
    """Coordinator of one rank group. Its own admission check is the last word on how many sessions it holds."""

    def __init__(self, config: ServiceConfig, pool: str = DEFAULT_POOL, vault: DeploymentHandle | None = None) -> None:
        super().__init__(config, config.denoisers[pool], config.sessions.max_sessions)
        sampling = config.sampling(self.model_config)
        self._ranks: RankGroup = LocalRank(self.checkpoint, sampling, self.device, self.dtype)
        self._orders: dict[str, BlockOrder] = {}
        self._exporter = Exporter(put_into(vault, Part.DENOISER), config.sessions.export_blocks)

    async def open(
        self, spec: SessionSpec, text: np.ndarray, clip: np.ndarray, reference: np.ndarray, attempt: int = 0
    ) -> str:
        """Admit a session and give this replica's id, to which it is pinned from now on.

        Raises `ReplicaFull` when as many sessions are held as the config allows, or when it is drained.
        """
        async with self._admitted(spec.session):
            await self.compute.run(self._ranks.open, spec, Conditions(text, clip, reference))
            self._orders[spec.session] = BlockOrder(0, attempt)
        return replica_id()

    async def adopt(self, spec: SessionSpec, exported: bytes, attempt: int) -> str:
        """Go on from an export, here, whether the session was held or not; gives this replica's id.

        Raises `StateError` for an export that cannot be adopted, and `ReplicaFull`.
        """
        async with self._admitted(spec.session):
            block = await self.compute.run(self._ranks.adopt, spec, exported)
            self._orders[spec.session] = BlockOrder(block, attempt)
        return replica_id()

    async def settle(self, session: str, attempt: int) -> int:
        """Begin an attempt: send away the blocks that wait, but finish the one being denoised; gives the block that is next.

        Raises `ReplicaGone` for a session not held here.
        """
        order = self._order(session)
        order.supersede(attempt)
        await order.idle()
        # A call that was cancelled gave its turn back while its block went on being made.
        order.put_at(await self.compute.run(self._ranks.position, session))
        return order.next_block

    async def denoise(
        self, session: str, block: int, features: Features, text: np.ndarray | None, attempt: int = 0
    ) -> Denoised:
        """The block's latents; waits for the blocks before it. Raises `ReplicaGone` for a session not held here."""
        async with self._order(session).turn(block, attempt):
            denoised = await self.compute.run(self._ranks.denoise, session, block, features, text)
            self._exporter.offer(session, block + 1, lambda: self._ranks.snapshot(session))
            return denoised

    async def export(self, session: str) -> bytes:
        """The Denoiser's part of the session's value, at the present block boundary."""
        self._order(session)
        return await self.compute.run(self._ranks.export, session)

    async def keep(self, session: str) -> None:
        """A session that has no blocks to make is still wanted. Raises `ReplicaGone` for one not held here."""
        self._order(session)

    async def close(self, session: str) -> None:
        """Forget a session; closing one twice, or one never held, is no error."""
        order = self._orders.pop(session, None)
        if order is not None:
            order.close()
            await self.compute.run(self._ranks.close, session)

    def held(self) -> int:
        """How many sessions are here."""
        return len(self._orders)

    async def sessions(self) -> list[str]:
        """The sessions held."""
        return list(self._orders)

    @asynccontextmanager
    async def _admitted(self, session: str) -> AsyncIterator[None]:
        """A place for the session, given back if it does not come to hold it.

        Raises `ReplicaFull`, but not for a session that is here already, drained or not.
        """
        await self._sweep()
        known = session in self._orders
        if not known:
            self.require_room(session)
        else:
            self._orders[session].close()
        self._orders[session] = BlockOrder()
        try:
            yield
        except BaseException:
            self._orders.pop(session, None)
            await self.compute.run(self._ranks.close, session)
            raise

    async def _sweep(self) -> None:
        """Drop the sessions whose Gateway has died."""
        oldest = time.monotonic() - self.config.sessions.longest_rest_s
        for session in [s for s, order in self._orders.items() if order.last_used < oldest]:
            await self.close(session)

    def _order(self, session: str) -> BlockOrder:
        order = self._orders.get(session)
        if order is None:
            raise ReplicaGone(f"session {session} is not held here")
        order.last_used = time.monotonic()
        return order
