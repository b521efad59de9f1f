"""The stages in one process: the models of the service without what surrounds them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import numpy as np

from liveact_models.vae import DecoderEngine, load_decoder
from liveact_services.block_order import BlockOrder
from liveact_services.conductor.stages import BlockPlan, Denoised, Features, SessionSpec, VideoPart
from liveact_services.denoiser.local_rank import LocalRank
from liveact_services.denoiser.rank import Conditions
from liveact_services.denoiser.turns import Turns
from liveact_services.encoders import encode_image, encode_reference, encode_text, encode_voice
from liveact_services.replica import Compute
from liveact_services.vae_decoder.decoding import Decoding

if TYPE_CHECKING:
    import torch

    from liveact_models.checkpoint import Checkpoint
    from liveact_models.config import SamplingConfig
    from liveact_models.engine import Engine
    from liveact_models.voice import BlockVoice
    from liveact_services.conductor.parts import Moved


class LocalModels:
    """The five stages' models, loaded once for any number of sessions; each stage computes on a thread of its own."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        sampling: SamplingConfig,
        device: torch.device,
        engine: Engine,
        decoder: DecoderEngine = DecoderEngine(),
    ) -> None:
        self.device = device
        self.rank = LocalRank(checkpoint, sampling, device, engine)
        self.vae_decoder = load_decoder(checkpoint, decoder, device)
        self._vae_encoder = checkpoint.load_vae("encode", device=str(device))
        self._audio_encoder = checkpoint.load_audio_encoder(device=str(device))
        self._text_encoder = checkpoint.load_text_encoder(device=str(device))
        self._image_encoder = checkpoint.load_image_encoder(device=str(device))
        self._config = checkpoint.config
        self.condition, self.hear, self.look = Compute("Conditioner"), Compute("AudioEncoder"), Compute("VaeEncoder")
        self.denoise, self.decode = Compute("Denoiser"), Compute("VaeDecoder")
        self.turns = Turns(self.rank, self.denoise)

    def text(self, prompt: str) -> np.ndarray:
        return encode_text(self._text_encoder, prompt, self._config.transformer.text_len)

    def image(self, portrait: np.ndarray) -> np.ndarray:
        return encode_image(self._image_encoder, portrait, self.device)

    def reference(self, portrait: np.ndarray) -> np.ndarray:
        return encode_reference(self._vae_encoder, portrait, self.device)

    def features(self, voice: BlockVoice, block: int) -> Features:
        return encode_voice(self._audio_encoder, voice, block, self._config.trained_fps)


class LocalStages:
    """One session's way through the models of this process (see `Stages`)."""

    def __init__(self, models: LocalModels) -> None:
        self._models = models
        self._spec: SessionSpec | None = None
        self._decoding: Decoding | None = None
        self._denoising, self._decoded = BlockOrder(), BlockOrder()
        self._blocks: set[asyncio.Task[Denoised]] = set()

    @property
    def replicas(self) -> tuple[str, str]:
        """There are none."""
        return "", ""

    def listen(self, listener: Callable[[Moved], None]) -> None:
        """Nothing moves here."""

    async def open(self, spec: SessionSpec, portrait: np.ndarray | None) -> None:
        """Condition the session and place it. `portrait`: float32 [3, H, W] in [-1, 1]."""
        assert portrait is not None, "a session of one process begins there"
        models = self._models
        text, clip, reference = await asyncio.gather(
            models.condition.run(models.text, spec.prompt),
            models.condition.run(models.image, portrait),
            models.look.run(models.reference, portrait),
        )
        self._spec = spec
        await models.denoise.run(models.rank.open, spec, Conditions(text, clip, reference))
        self._decoding = Decoding(models.vae_decoder, spec, models.device)

    def submit(self, plan: BlockPlan) -> AsyncIterator[VideoPart]:
        """Denoise the block as soon as its turn comes; it is decoded as its parts are taken."""
        assert self._decoding is not None
        denoised = asyncio.create_task(self._denoise(plan))
        self._blocks.add(denoised)
        return self._decode(self._decoding, plan, denoised)

    async def keep(self) -> None:
        """Nothing forgets it here."""

    async def pack(self) -> None:
        """Nothing outlives this process."""

    async def close(self) -> None:
        """Forget the session; a block under way is given up."""
        self._denoising.close()
        self._decoded.close()
        for block in self._blocks:
            block.cancel()
        await asyncio.gather(*self._blocks, return_exceptions=True)
        self._blocks.clear()
        # On the thread that denoises, hence after whatever still runs there.
        if self._spec is not None:
            await self._models.denoise.run(self._models.rank.close, self._spec.session)

    def let_go(self) -> None:
        """Nobody else has it."""

    async def release(self) -> None:
        """There is one process, and it has let go."""

    async def _denoise(self, plan: BlockPlan) -> Denoised:
        models, spec = self._models, self._spec
        assert spec is not None
        due = None if plan.due_s is None else time.monotonic() + plan.due_s
        features = await models.hear.run(models.features, plan.voice, plan.block)
        text = None if plan.prompt is None else await models.condition.run(models.text, plan.prompt)
        async with self._denoising.turn(plan.block):
            return await models.turns.denoise(spec, plan.block, features, text, due)

    async def _decode(
        self, decoding: Decoding, plan: BlockPlan, denoising: asyncio.Task[Denoised]
    ) -> AsyncIterator[VideoPart]:
        denoised = await denoising
        self._blocks.discard(denoising)
        async with self._decoded.turn(plan.block):
            parts = decoding.parts(plan.block, denoised, backward=plan.backward)
            while (part := await self._models.decode.run(next, parts, None)) is not None:
                yield part
