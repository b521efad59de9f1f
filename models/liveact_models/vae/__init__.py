"""The causal 3-D VAE, streaming both ways (model-facts, "Time and shapes" and "Reference condition")."""

from liveact_models.vae.cache import CacheError, DecoderCache
from liveact_models.vae.streaming import Parts, StreamingVae, to_rgb

__all__ = ["CacheError", "DecoderCache", "Parts", "StreamingVae", "to_rgb"]
