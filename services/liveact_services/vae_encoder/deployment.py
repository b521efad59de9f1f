"""VaeEncoder: a portrait becomes the reference latents every block is conditioned on (model-facts, "Reference condition")."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from liveact_services.encoders import encode_reference
from liveact_services.replica import Recent, Replica, told_remembered

if TYPE_CHECKING:
    from liveact_services.config import ServiceConfig


class VaeEncoder(Replica):
    """Stateless; recent portraits are remembered, so an avatar is encoded once however many sessions use it."""

    def __init__(self, config: ServiceConfig) -> None:
        super().__init__(config, config.vae_encoder)
        self._vae = self.checkpoint.load_vae("encode", device=str(self.device))
        self._portraits: Recent[str, np.ndarray] = Recent(64)

    async def reference(self, portrait: np.ndarray, trace: str = "") -> np.ndarray:
        """Latents of [portrait, 52 zero frames]: float32 [3, H, W] -> [16, 14, H/8, W/8]."""
        key = f"{portrait.shape}:{hashlib.sha256(portrait.tobytes()).hexdigest()}"
        cached = self._portraits.get(key)
        if cached is None:
            cached = await self.staged("reference", trace, encode_reference, self._vae, portrait, self.device)
            self._portraits.put(key, cached)
        else:
            told_remembered("reference", trace)
        return cached
