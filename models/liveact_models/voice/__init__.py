"""Voice: from any sound to what the audio encoder hears for a block. Imports neither torch nor FFmpeg until used."""

from liveact_models.voice.buffer import VoiceBuffer
from liveact_models.voice.errors import VoiceError
from liveact_models.voice.prepare import BlockVoice, block_features, normalize, prepare_clip, prepare_window
from liveact_models.voice.source import Samples, Voice, clipped_fraction, decode_pcm, load_voice

__all__ = [
    "BlockVoice",
    "Samples",
    "Voice",
    "VoiceBuffer",
    "VoiceError",
    "block_features",
    "clipped_fraction",
    "decode_pcm",
    "load_voice",
    "normalize",
    "prepare_clip",
    "prepare_window",
]
