"""The diffusion transformer of SoulX-LiveAct at any size."""

from liveact_models.transformer.attention import KeyValue, attend
from liveact_models.transformer.audio import gather_audio_windows
from liveact_models.transformer.model import Conditioning, LiveActTransformer

__all__ = ["Conditioning", "KeyValue", "LiveActTransformer", "attend", "gather_audio_windows"]
