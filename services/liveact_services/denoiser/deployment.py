"""Denoiser: holds the ConvKV sessions and denoises their blocks, one at a time, in the order they come."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from liveact_services.block_order import BlockOrder
from liveact_services.conductor.stages import Denoised, Features, SessionSpec
from liveact_services.denoiser.rank import Conditions, LocalRank, RankGroup
from liveact_services.placement.pins import ReplicaGone
from liveact_services.replica import Replica, replica_id
from liveact_services.stateful import Stateful
from liveact_services.tenants.tenant import DEFAULT_POOL

if TYPE_CHECKING:
    from liveact_services.config import ServiceConfig


class Denoiser(Replica, Stateful):
    """Coordinator of one rank group. Its own admission check is the last word on how many sessions it holds."""

    def __init__(self, config: ServiceConfig, pool: str = DEFAULT_POOL) -> None:
        Replica.__init__(self, config, config.denoisers[pool])
        Stateful.__init__(self, config.sessions.max_sessions)
        sampling = config.sampling(self.model_config)
        self._ranks: RankGroup = LocalRank(self.checkpoint, sampling, self.device, self.dtype)
        self._orders: dict[str, BlockOrder] = {}

    async def open(self, spec: SessionSpec, text: np.ndarray, clip: np.ndarray, reference: np.ndarray) -> str:
        """Admit a session and give this replica's id, to which it is pinned from now on.

        Raises `ReplicaFull` when as many sessions are held as the config allows, or when it is drained.
        """
        await self._sweep()
        self.require_room(spec.session)
        self._orders[spec.session] = BlockOrder()
        try:
            await self.compute.run(self._ranks.open, spec, Conditions(text, clip, reference))
        except BaseException:
            self._orders.pop(spec.session, None)
            raise
        return replica_id()

    async def denoise(self, session: str, block: int, features: Features, text: np.ndarray | None) -> Denoised:
        """The block's latents; waits for the blocks before it. Raises `ReplicaGone` for a session not held here."""
        async with self._order(session).turn(block):
            return await self.compute.run(self._ranks.denoise, session, block, features, text)

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
