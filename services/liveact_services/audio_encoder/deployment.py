"""AudioEncoder: the sound of a block becomes wav2vec2 features (model-facts, "Audio")."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from liveact_services.conductor.stages import Features
from liveact_services.encoders import encode_voice
from liveact_services.replica import Replica

if TYPE_CHECKING:
    from liveact_models.voice import BlockVoice
    from liveact_services.config import ServiceConfig


class AudioEncoder(Replica):
    """Stateless: a block's features depend on the window it is given and nothing else."""

    def __init__(self, config: ServiceConfig) -> None:
        super().__init__(config, config.audio_encoder)
        self._encoder = self.checkpoint.load_audio_encoder(device=str(self.device))

    async def encode(self, voice: BlockVoice, block: int, trace: str = "") -> Features:
        """Features of the frames [start - 2, stop + 2) of the block."""
        came = time.monotonic()
        fps = self.model_config.trained_fps
        features = await self.staged("audio", trace, encode_voice, self._encoder, voice, block, fps)
        return replace(features, held_s=time.monotonic() - came)
