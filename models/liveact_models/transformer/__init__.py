"""The diffusion transformer of SoulX-LiveAct at any size."""

from liveact_models.transformer.attention import KeyValue, attend, use_attention
from liveact_models.transformer.audio import gather_audio_windows
from liveact_models.transformer.backends import BACKENDS, AttentionChoice, choose_attention
from liveact_models.transformer.model import Conditioning, LiveActTransformer

__all__ = [
    "BACKENDS",
    "AttentionChoice",
    "Conditioning",
    "KeyValue",
    "LiveActTransformer",
    "attend",
    "choose_attention",
    "gather_audio_windows",
    "use_attention",
]
