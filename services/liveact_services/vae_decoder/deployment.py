"""VaeDecoder: latents become frames and frames become video, latent frame by latent frame.

Video is encoded here, so that raw frames never leave the replica.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from liveact_models.timeline import block_frames

from liveact_services.conductor.stages import Denoised, EncodedFrame, SessionSpec, StageTimes, VideoPart
from liveact_services.placement.pins import ReplicaFull, ReplicaGone
from liveact_services.replica import Replica, replica_id
from liveact_services.vae_decoder.encoding import FrameEncoder, frame_encoder

if TYPE_CHECKING:
    import numpy as np
    import torch
    from liveact_models.vae import DecoderCache

    from liveact_services.config import ServiceConfig


@dataclass
class _Decoding:
    """One session here: the causal feature cache and the video encoder, both mid-stream."""

    cache: DecoderCache
    encoder: FrameEncoder
    next_block: int = 0
    last_used: float = field(default_factory=time.monotonic)


class VaeDecoder(Replica):
    """Holds each session's feature cache, so that decoding block by block equals decoding the whole."""

    def __init__(self, config: ServiceConfig) -> None:
        super().__init__(config, config.vae_decoder)
        self._vae = self.checkpoint.load_vae("decode", device=str(self.device))
        self._sessions: dict[str, _Decoding] = {}

    async def open(self, spec: SessionSpec) -> str:
        """Admit a session and give this replica's id, to which it is pinned from now on. Raises `ReplicaFull`."""
        limits = self.config.sessions
        oldest = time.monotonic() - (limits.idle_timeout_s + limits.detached_timeout_s)
        # Older than any Gateway lets a session rest: its Gateway has died.
        self._sessions = {s: d for s, d in self._sessions.items() if d.last_used >= oldest}
        # Twice the Denoiser's count: a decoder serves several Denoisers where those are the scarce ones.
        if len(self._sessions) >= 2 * limits.max_sessions:
            raise ReplicaFull(replica_id())
        encoder = frame_encoder(spec.codec, spec.width, spec.height, spec.fps)
        self._sessions[spec.session] = _Decoding(self._vae.new_cache(), encoder)
        return replica_id()

    async def decode(self, session: str, block: int, denoised: Denoised) -> AsyncIterator[VideoPart]:
        """The block's video, a part for every latent frame as soon as it is decoded. Blocks come in order."""
        decoding = self._sessions.get(session)
        if decoding is None:
            raise ReplicaGone(f"session {session} is not held here")
        if block != decoding.next_block:
            raise ValueError(f"block {block} came while block {decoding.next_block} is next")
        decoding.next_block += 1
        decoding.last_used = time.monotonic()
        index = block_frames(block).start
        before = StageTimes(audio_s=denoised.audio_s, denoise_s=denoised.denoise_s)
        parts = self._decode(decoding, denoised.latents)
        while True:
            part = await self.compute.run(self._next_part, decoding, parts, block, index)
            if part is None:
                return
            index += len(part.frames)
            yield replace(part, times=part.times + before)
            before = StageTimes()

    async def close(self, session: str) -> None:
        """Forget a session; an unknown one is no error."""
        self._sessions.pop(session, None)

    async def sessions(self) -> list[str]:
        """The sessions held."""
        return list(self._sessions)

    def _decode(self, decoding: _Decoding, latents: np.ndarray) -> Iterator[torch.Tensor]:
        import torch

        return self._vae.decode_stream(torch.tensor(latents, device=self.device), decoding.cache)

    def _next_part(
        self, decoding: _Decoding, frames: Iterator[torch.Tensor], block: int, index: int
    ) -> VideoPart | None:
        from liveact_models.vae import to_rgb

        began = time.perf_counter()
        decoded = next(frames, None)
        if decoded is None:
            return None
        rgb = to_rgb(decoded).cpu().numpy()
        done = time.perf_counter()
        first = block_frames(block).start
        encoded = tuple(
            EncodedFrame(index + i, index + i == first, decoding.encoder.encode(picture, index + i, index + i == first))
            for i, picture in enumerate(rgb)
        )
        return VideoPart(block, encoded, StageTimes(decode_s=done - began, encode_s=time.perf_counter() - done))
