"""The causal VAEs, streaming both ways (model-facts, "Time and shapes" and "Reference condition").

The full one is `StreamingVae`, over diffusers; `TinyVae` is small enough to decode on a laptop's CPU.
"""

from liveact_models.config import AnyVaeConfig, TinyVaeConfig
from liveact_models.vae.base import Parts, Vae, to_rgb
from liveact_models.vae.cache import CacheError, DecoderCache
from liveact_models.vae.engine import DecoderEngine, load_decoder
from liveact_models.vae.streaming import StreamingVae
from liveact_models.vae.tiny import TinyVae

__all__ = [
    "CacheError",
    "DecoderCache",
    "DecoderEngine",
    "Parts",
    "StreamingVae",
    "TinyVae",
    "Vae",
    "build_vae",
    "load_decoder",
    "to_rgb",
]


def build_vae(config: AnyVaeConfig, parts: Parts = "both") -> Vae:
    """The VAE of the config's family, its weights not loaded. Raises `ValueError` for unknown `parts`."""
    return TinyVae(config, parts) if isinstance(config, TinyVaeConfig) else StreamingVae(config, parts)
