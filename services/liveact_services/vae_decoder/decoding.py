"""One session's decoding, both its halves mid-stream: the VAE's causal feature cache and the video encoder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from liveact_models import blob
from liveact_models.blob import StateError
from liveact_models.timeline import block_frames
from liveact_models.vae.cache import CacheError, DecoderCache
from liveact_services.conductor.stages import Denoised, EncodedFrame, SessionSpec, StageTimes, VideoPart
from liveact_services.encoders import tensor
from liveact_services.vae_decoder.encoding import H264, frame_encoder
from liveact_services.watermark.marks import Marks

if TYPE_CHECKING:
    import torch

    from liveact_models.vae import Vae


class Decoding:
    """Turns a session's blocks into video, in order. Called from one thread."""

    def __init__(
        self,
        vae: Vae,
        spec: SessionSpec,
        device: torch.device,
        cache: DecoderCache | None = None,
        block: int = 0,
        h264: H264 = "libx264",
    ) -> None:
        """`cache`: what the decoder remembers before `block`; a session from its start has none. `h264`: what encodes that."""
        self._vae, self._device, self._spec = vae, device, spec
        self._cache = vae.new_cache() if cache is None else cache
        self._at_boundary = list(self._cache.slots)
        self._new_encoder = partial(frame_encoder, spec.codec, spec.width, spec.height, spec.fps, h264)
        self._encoder = self._new_encoder()
        self._marks = Marks.of(spec)
        self.next_block = block

    def parts(
        self, block: int, denoised: Denoised, first_frame: int = 0, backward: bool = False
    ) -> Iterator[VideoPart]:
        """The block's video; each step decodes one latent frame and encodes its frames from `first_frame` on.

        The first part carries what the block cost before, the last, if asked, all of the block's frames backwards; `first_frame`
        is a key frame where it lies inside the block. Raises `ValueError` at the call for a block out of its turn.
        """
        if block != self.next_block:
            raise ValueError(f"block {block} came while block {self.next_block} is next")
        return self._parts(block, denoised, first_frame, backward)

    def rewind(self) -> int:
        """Back to the last block boundary, giving up what was decoded since; gives the block that comes next."""
        self._cache.slots = list(self._at_boundary)
        return self.next_block

    def snapshot(self, fingerprint: str) -> Callable[[], bytes]:
        """The decoder's part of the session's value as it is at this boundary, to be serialised at any later time.

        `fingerprint` is that of the model: no other can go on from it.
        """
        # Decoding replaces the cache's tensors and never writes into them, so they can be shared with another thread.
        cache = DecoderCache(list(self._at_boundary))
        header = {**self._header(self._vae, self._spec, fingerprint), "block": self.next_block}
        return lambda: blob.pack(header, cache.tensors())

    @classmethod
    def adopt(
        cls,
        vae: Vae,
        spec: SessionSpec,
        device: torch.device,
        exported: bytes,
        fingerprint: str,
        h264: H264 = "libx264",
    ) -> Decoding:
        """What a `snapshot` described, ready to go on; the video begins anew, with a key frame. Raises `StateError`."""
        header, tensors = blob.unpack(exported)
        block = header.pop("block", None)
        expected = cls._header(vae, spec, fingerprint)
        if header != expected or not isinstance(block, int):
            raise StateError("STATE_MODEL_MISMATCH", f"the export is of {header}, accepted is {expected}")
        try:
            cache = DecoderCache.from_tensors(tensors, device=device)
        except CacheError as error:
            raise StateError("STATE_TENSOR", str(error)) from None
        if cache.started != (block > 0):
            raise StateError("STATE_TENSOR", f"the decoder's cache does not belong to a session before block {block}")
        return cls(vae, spec, device, cache, block, h264)

    @staticmethod
    def _header(vae: Vae, spec: SessionSpec, fingerprint: str) -> dict[str, Any]:
        model = {"fingerprint": fingerprint, "vae": type(vae).__name__}
        return {"part": "decoder", "width": spec.width, "height": spec.height, **model}

    def _parts(self, block: int, denoised: Denoised, first_frame: int, backward: bool) -> Iterator[VideoPart]:
        latents = tensor(denoised.latents, self._device)
        before = StageTimes(audio_s=denoised.audio_s, denoise_s=denoised.denoise_s)
        frames = block_frames(block)
        index, key = frames.start, max(frames.start, first_frame)
        pictures: list[np.ndarray] = []
        for latent in latents.unbind(dim=1):
            part, rgb = self._part(block, index, latent, key)
            index += len(rgb)
            if backward:
                pictures += list(rgb)
                if index == frames.stop:
                    part = self._with_backward(part, pictures)
            before += part.times
            if index == frames.stop:
                # Before the last part is given: whoever has it may ask for the next block.
                self.next_block, self._at_boundary = block + 1, list(self._cache.slots)
            if part.frames:
                yield replace(part, times=before)
                before = StageTimes()

    def _part(self, block: int, index: int, latent: torch.Tensor, first: int) -> tuple[VideoPart, np.ndarray]:
        """The frames of a latent frame that are wanted, those from `first` on, and all its pictures."""
        from liveact_models.vae import to_rgb

        began = time.perf_counter()
        rgb = to_rgb(self._vae.decode_frame(latent, self._cache)).cpu().numpy()
        decoded = time.perf_counter()
        rgb = self._marks.on(rgb)
        wanted = [(index + i, picture) for i, picture in enumerate(rgb) if index + i >= first]
        frames = tuple(EncodedFrame(i, i == first, self._encoder.encode(rgb, i, i == first)) for i, rgb in wanted)
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
