"""One session's decoding, both its halves mid-stream: the VAE's causal feature cache and the video encoder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from liveact_models.timeline import block_frames
from liveact_services.conductor.stages import Denoised, EncodedFrame, SessionSpec, StageTimes, VideoPart
from liveact_services.encoders import tensor
from liveact_services.vae_decoder.encoding import frame_encoder

if TYPE_CHECKING:
    import torch

    from liveact_models.vae import Vae


class Decoding:
    """Turns a session's blocks into video, in order. Called from one thread."""

    def __init__(self, vae: Vae, spec: SessionSpec, device: torch.device) -> None:
        self._vae, self._device = vae, device
        self._cache = vae.new_cache()
        self._encoder = frame_encoder(spec.codec, spec.width, spec.height, spec.fps)
        self._next_block = 0

    def parts(self, block: int, denoised: Denoised) -> Iterator[VideoPart]:
        """The block's video; each step decodes and encodes one latent frame.

        The first part carries what the block cost before. Raises `ValueError` at the call for a block out of its turn.
        """
        if block != self._next_block:
            raise ValueError(f"block {block} came while block {self._next_block} is next")
        self._next_block += 1
        return self._parts(block, denoised)

    def _parts(self, block: int, denoised: Denoised) -> Iterator[VideoPart]:
        latents = tensor(denoised.latents, self._device)
        before = StageTimes(audio_s=denoised.audio_s, denoise_s=denoised.denoise_s)
        index = block_frames(block).start
        for latent in latents.unbind(dim=1):
            part = self._part(block, index, latent)
            index += len(part.frames)
            yield replace(part, times=part.times + before)
            before = StageTimes()

    def _part(self, block: int, index: int, latent: torch.Tensor) -> VideoPart:
        from liveact_models.vae import to_rgb

        began = time.perf_counter()
        rgb = to_rgb(self._vae.decode_frame(latent, self._cache)).cpu().numpy()
        decoded = time.perf_counter()
        frames = tuple(self._frame(picture, index + i, block) for i, picture in enumerate(rgb))
        return VideoPart(block, frames, StageTimes(decode_s=decoded - began, encode_s=time.perf_counter() - decoded))

    def _frame(self, rgb: np.ndarray, index: int, block: int) -> EncodedFrame:
        key = index == block_frames(block).start
        return EncodedFrame(index, key, self._encoder.encode(rgb, index, key))
