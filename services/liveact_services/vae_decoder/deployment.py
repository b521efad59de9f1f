"""VaeDecoder: latents become frames and frames become video, latent frame by latent frame.

Video is encoded here, so that raw frames never leave the replica.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from liveact_models.timeline import block_slots
from liveact_models.vae import load_decoder
from liveact_services.block_order import BlockOrder
from liveact_services.conductor.parts import Part
from liveact_services.conductor.stages import Boundary, Denoised, SessionSpec, VideoPart
from liveact_services.observability.tracing import now_ns
from liveact_services.replica import replica_id
from liveact_services.stateful import StatefulReplica
from liveact_services.vae_decoder.decoding import Decoding
from liveact_services.vae_decoder.encoding import require_h264
from liveact_services.vae_decoder.work import DecodingWork
from liveact_services.vault.exporter import Snapshot

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from liveact_services.config import ServiceConfig

log = logging.getLogger(__name__)


@dataclass
class _Held:
    """One session here."""

    decoding: Decoding
    order: BlockOrder


class VaeDecoder(StatefulReplica[_Held]):
    """Holds each session's feature cache, so that decoding block by block equals decoding the whole."""

    def __init__(self, config: ServiceConfig, vault: DeploymentHandle | None = None) -> None:
        super().__init__(config, config.vae_decoder, config.sessions.max_decoded, Part.DECODER, vault)
        self._h264 = config.vae_decoder.h264
        require_h264(self._h264)
        engine = config.vae_decoder.engine
        self._vae = load_decoder(self.checkpoint, engine, self.device)
        if config.vae_decoder.num_gpus > 0 or engine.compile:
            self._warm_up()
        self._fingerprint = self.model_config.fingerprint()
        self._adopting: set[str] = set()
        """Sessions whose exports are being unpacked."""

    def _warm_up(self) -> None:
        """Decode a first block of nothing: kernels are compiled, or on a GPU loaded and chosen, once."""
        import torch

        began = time.perf_counter()
        width, height = self.model_config.limits.default
        shape = (self.model_config.vae.z_dim, len(block_slots(0)), height // 8, width // 8)
        with torch.inference_mode():
            for _ in self._vae.decode_stream(torch.zeros(shape, device=self.device), self._vae.new_cache()):
                pass
        log.info("warm after %.1f s", time.perf_counter() - began)

    async def open(self, spec: SessionSpec, attempt: int = 0) -> str:
        """Admit a session and give this replica's id, to which it is pinned from now on.

        Raises `ReplicaFull`, and `Superseded` after a later attempt.
        """
        self._come(spec, attempt)
        self._admit(spec.session)
        self._hold(spec.session, Decoding(self._vae, spec, self.device, h264=self._h264), attempt)
        return replica_id()

    async def adopt(self, spec: SessionSpec, exported: bytes, attempt: int) -> str:
        """Go on from an export, here, whether the session was held or not; gives this replica's id.

        Raises `StateError` for an export that cannot be adopted, `ReplicaFull`, and `Superseded` after a later attempt.
        """
        self._come(spec, attempt)
        self._admit(spec.session)
        # Its place is taken before the export is unpacked: whoever adopts meanwhile must find it taken.
        self._adopting.add(spec.session)
        try:
            decoding = await self.compute.run(
                Decoding.adopt, self._vae, spec, self.device, exported, self._fingerprint, self._h264
            )
        finally:
            self._adopting.discard(spec.session)
        self._hold(spec.session, decoding, attempt)
        return replica_id()

    async def settle(self, session: str, attempt: int) -> int:
        """Begin an attempt: give up what is being decoded; gives the block that comes next.

        Raises `ReplicaGone`, and `Superseded` after a later attempt.
        """
        self._fence.enter(session, attempt)
        held = self._held(session)
        held.order.supersede(attempt)
        # On the thread that decodes, hence after the latent frame it is at.
        held.order.put_at(await self.compute.run(held.decoding.rewind))
        return held.order.next_block

    async def hand_over(self, session: str, attempt: int) -> Boundary:
        """Begin an attempt, finish the block that is being decoded, and put the session's value into the Vault.

        It stays here until it is closed. Raises `ReplicaGone`, and `Superseded` after a later attempt.
        """
        self._fence.enter(session, attempt)
        held, asked = self._held(session), time.monotonic()
        held.order.supersede(attempt, finish=True)
        await held.order.idle()
        # A call that was cancelled left its block half decoded.
        held.order.put_at(await self.compute.run(held.decoding.rewind))
        block, finishing_s = held.order.next_block, time.monotonic() - asked
        saved = await self._exporter.deliver(session, block, self._snapshot(held), attempt)
        return Boundary(block, saved, finishing_s)

    async def decode(
        self,
        session: str,
        block: int,
        denoised: Denoised,
        first_frame: int = 0,
        attempt: int = 0,
        backward: bool = False,
        trace: str = "",
    ) -> AsyncIterator[VideoPart]:
        """The block's video, a part for every latent frame as soon as it is decoded; waits for the blocks before it.

        Frames before `first_frame` are decoded and left out. `backward`: with the last part, all of the block's frames from last
        to first. Raises `Superseded` when another attempt begins meanwhile.
        """
        held = self._held(session)
        work = DecodingWork(trace, block)
        try:
            # A block may be denoised before its predecessor's last frames are decoded.
            async with held.order.turn(block, attempt):
                parts = held.decoding.parts(block, denoised, first_frame, backward)
                while True:
                    held.order.check_turn(attempt)
                    if (made := await self.compute.run(_next, parts)) is None:
                        break
                    work.part(*made)
                    yield made[0]
                self._offer(session, held, block + 1, attempt, trace)
        except BaseException as error:
            work.end(error)
            raise
        work.end()

    async def close(self, session: str, attempt: int | None = None) -> None:
        """Forget a session; an unknown one is no error. Raises `Superseded` after a later attempt."""
        if attempt is not None:
            self._fence.enter(session, attempt)
        held = self._sessions.pop(session, None)
        self._exporter.forget(session)
        if held is not None:
            held.order.close()

    def held(self) -> int:
        """How many sessions are here, those whose exports are being unpacked among them."""
        return len(self._sessions.keys() | self._adopting)

    def _snapshot(self, held: _Held) -> Snapshot:
        return held.decoding.snapshot(self._fingerprint)

    def _admit(self, session: str) -> None:
        for forgotten in self._abandoned():
            self._sessions.pop(forgotten).order.close()
        # One that is here already goes on here, drained or not.
        if session not in self._sessions and session not in self._adopting:
            self.require_room(session)

    def _hold(self, session: str, decoding: Decoding, attempt: int) -> None:
        if session in self._sessions:
            self._sessions[session].order.close()
        self._sessions[session] = _Held(decoding, BlockOrder(decoding.next_block, attempt))


def _next(parts: Iterator[VideoPart]) -> tuple[VideoPart, int] | None:
    """The next part and the moment at which it was there; None after the last."""
    part = next(parts, None)
    return None if part is None else (part, now_ns())
