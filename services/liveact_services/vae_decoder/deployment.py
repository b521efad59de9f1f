"""VaeDecoder: latents become frames and frames become video, latent frame by latent frame.

Video is encoded here, so that raw frames never leave the replica.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from liveact_services.block_order import BlockOrder
from liveact_services.conductor.stages import Denoised, SessionSpec, VideoPart
from liveact_services.placement.pins import ReplicaFull, ReplicaGone
from liveact_services.replica import Replica, replica_id
from liveact_services.vae_decoder.decoding import Decoding

if TYPE_CHECKING:
    from liveact_services.config import ServiceConfig


@dataclass
class _Held:
    """One session here."""

    decoding: Decoding
    order: BlockOrder = field(default_factory=BlockOrder)


class VaeDecoder(Replica):
    """Holds each session's feature cache, so that decoding block by block equals decoding the whole."""

    def __init__(self, config: ServiceConfig) -> None:
        super().__init__(config, config.vae_decoder)
        self._vae = self.checkpoint.load_vae("decode", device=str(self.device))
        self._sessions: dict[str, _Held] = {}

    async def open(self, spec: SessionSpec) -> str:
        """Admit a session and give this replica's id, to which it is pinned from now on. Raises `ReplicaFull`."""
        limits = self.config.sessions
        oldest = time.monotonic() - limits.longest_rest_s
        self._sessions = {s: held for s, held in self._sessions.items() if held.order.last_used >= oldest}
        # Twice the Denoiser's count: a decoder serves several Denoisers where those are the scarce ones.
        if len(self._sessions) >= 2 * limits.max_sessions:
            raise ReplicaFull(replica_id())
        self._sessions[spec.session] = _Held(Decoding(self._vae, spec, self.device))
        return replica_id()

    async def decode(
        self, session: str, block: int, denoised: Denoised, backward: bool = False
    ) -> AsyncIterator[VideoPart]:
        """The block's video, a part for every latent frame as soon as it is decoded; waits for the blocks before it.

        `backward`: with the last part, the block's frames from last to first.
        """
        held = self._held(session)
        # A block may be denoised before its predecessor's last frames are decoded.
        async with held.order.turn(block):
            parts = held.decoding.parts(block, denoised, backward)
            while (part := await self.compute.run(next, parts, None)) is not None:
                yield part

    async def keep(self, session: str) -> None:
        """A session that has no blocks to make is still wanted. Raises `ReplicaGone` for one not held here."""
        self._held(session)

    async def close(self, session: str) -> None:
        """Forget a session; an unknown one is no error."""
        held = self._sessions.pop(session, None)
        if held is not None:
            held.order.close()

    async def sessions(self) -> list[str]:
        """The sessions held."""
        return list(self._sessions)

    def _held(self, session: str) -> _Held:
        held = self._sessions.get(session)
        if held is None:
            raise ReplicaGone(f"session {session} is not held here")
        held.order.last_used = time.monotonic()
        return held
