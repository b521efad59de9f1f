"""What the transformer is told: sound, prompt and portrait, each through a pretrained encoder of transformers."""

from liveact_models.encoders.audio import AudioEncoder
from liveact_models.encoders.image import ImageEncoder
from liveact_models.encoders.text import TextEncoder, load_tokenizer, tokenizer_files

__all__ = ["AudioEncoder", "ImageEncoder", "TextEncoder", "load_tokenizer", "tokenizer_files"]
