"""One session's decoding, both its halves mid-stream: the VAE's causal feature cache and the video encoder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
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
        self._new_encoder = partial(frame_encoder, spec.codec, spec.width, spec.height, spec.fps)
        self._encoder = self._new_encoder()
        self._next_block = 0

    def parts(self, block: int, denoised: Denoised, backward: bool = False) -> Iterator[VideoPart]:
        """The block's video; each step decodes and encodes one latent frame.

        The first part carries what the block cost before, the last, if asked, the block's frames backwards. Raises `ValueError`
        at the call for a block out of its turn.
        """
        if block != self._next_block:
            raise ValueError(f"block {block} came while block {self._next_block} is next")
        self._next_block += 1
        return self._parts(block, denoised, backward)

    def _parts(self, block: int, denoised: Denoised, backward: bool) -> Iterator[VideoPart]:
        latents = tensor(denoised.latents, self._device)
        before = StageTimes(audio_s=denoised.audio_s, denoise_s=denoised.denoise_s)
        frames = block_frames(block)
        index = frames.start
        pictures: list[np.ndarray] = []
        for latent in latents.unbind(dim=1):
            part, rgb = self._part(block, index, latent)
            index += len(part.frames)
            if backward:
                pictures += list(rgb)
                if index == frames.stop:
                    part = self._with_backward(part, pictures)
            yield replace(part, times=part.times + before)
            before = StageTimes()

    def _part(self, block: int, index: int, latent: torch.Tensor) -> tuple[VideoPart, np.ndarray]:
        from liveact_models.vae import to_rgb

        began = time.perf_counter()
        rgb = to_rgb(self._vae.decode_frame(latent, self._cache)).cpu().numpy()
        decoded = time.perf_counter()
        frames = tuple(self._frame(picture, index + i, block) for i, picture in enumerate(rgb))
        times = StageTimes(decode_s=decoded - began, encode_s=time.perf_counter() - decoded)
        return VideoPart(block, frames, times), rgb

    def _with_backward(self, part: VideoPart, pictures: list[np.ndarray]) -> VideoPart:
        """The part with the block's frames from last to first.

        By an encoder of their own, so that the session's own stream is what it would be without them: they too start with a
        key frame and refer to nothing else, and can be shown between any two blocks.
        """
        began = time.perf_counter()
        encoder = self._new_encoder()
        frames = tuple(
            EncodedFrame(i, i == 0, encoder.encode(rgb, i, i == 0)) for i, rgb in enumerate(reversed(pictures))
        )
        times = part.times + StageTimes(encode_s=time.perf_counter() - began)
        return replace(part, backward=frames, times=times)

    def _frame(self, rgb: np.ndarray, index: int, block: int) -> EncodedFrame:
        key = index == block_frames(block).start
        return EncodedFrame(index, key, self._encoder.encode(rgb, index, key))
