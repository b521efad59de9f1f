"""Conditioner: a prompt and a portrait become the embeddings the transformer attends to (UMT5, CLIP)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from liveact_services.encoders import encode_image, encode_text
from liveact_services.replica import Recent, Replica, told_remembered

if TYPE_CHECKING:
    from liveact_services.config import ServiceConfig


class Conditioner(Replica):
    """Stateless; any replica serves any call. Recent prompts and portraits are remembered."""

    def __init__(self, config: ServiceConfig) -> None:
        super().__init__(config, config.conditioner)
        self._text = self.checkpoint.load_text_encoder(device=str(self.device))
        self._image = self.checkpoint.load_image_encoder(device=str(self.device))
        self._prompts: Recent[str, np.ndarray] = Recent(256)
        self._portraits: Recent[str, np.ndarray] = Recent(64)

    async def text(self, prompt: str, trace: str = "") -> np.ndarray:
        """The prompt's embedding, float32 [tokens, text_dim]; at most text_len tokens."""
        cached = self._prompts.get(prompt)
        if cached is None:
            length = self.model_config.transformer.text_len
            cached = await self.staged("text", trace, encode_text, self._text, prompt, length)
            self._prompts.put(prompt, cached)
        else:
            told_remembered("text", trace)
        return cached

    async def image(self, portrait: np.ndarray, trace: str = "") -> np.ndarray:
        """CLIP tokens of a portrait [3, H, W] in [-1, 1]: float32 [clip_tokens, clip_dim]."""
        key = hashlib.sha256(portrait.tobytes()).hexdigest()
        cached = self._portraits.get(key)
        if cached is None:
            cached = await self.staged("image", trace, encode_image, self._image, portrait, self.device)
            self._portraits.put(key, cached)
        else:
            told_remembered("image", trace)
        return cached
