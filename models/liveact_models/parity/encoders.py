"""The three encoders against their golden tensors."""

from __future__ import annotations

from pathlib import Path

import torch

from liveact_models.checkpoint import names
from liveact_models.config import AudioEncoderConfig, ImageEncoderConfig, TextEncoderConfig
from liveact_models.encoders import AudioEncoder, ImageEncoder, TextEncoder
from liveact_models.parity.golden import read_config, read_tensors
from liveact_models.parity.report import ParityRow, relative_error
from liveact_models.voice import normalize


def t5_rows(directory: Path) -> list[ParityRow]:
    """UMT5 at its unmasked tokens, each prompt without its padding as the service encodes it."""
    encoder = TextEncoder(read_config(directory, "t5", TextEncoderConfig, tokenizer="bytes"), tokenizer=None)
    encoder.load_state_dict(names.text_encoder(read_tensors(directory, "t5.weights")))
    encoder.eval()
    io = read_tensors(directory, "t5.io")
    kept = io["mask"].bool()
    ours = torch.cat([encoder.encode_tokens(ids[mask]) for ids, mask in zip(io["ids"], kept, strict=True)])
    return [ParityRow("t5", "unmasked tokens", "output", relative_error(ours, io["output"][kept]))]


def clip_rows(directory: Path) -> list[ParityRow]:
    """The CLIP vision tower at all tokens of its last-but-one block."""
    config = read_config(directory, "clip", ImageEncoderConfig)
    encoder = ImageEncoder(config)
    encoder.load_state_dict(names.image_encoder(read_tensors(directory, "clip.weights"), config.num_layers))
    encoder.eval()
    io = read_tensors(directory, "clip.io")
    return [
        ParityRow("clip", "all tokens", "output", relative_error(encoder.encode_pixels(io["pixels"]), io["output"]))
    ]


def wav2vec2_rows(directory: Path) -> list[ParityRow]:
    """wav2vec2 at the frame rate, and the normalisation before it."""
    encoder = AudioEncoder(read_config(directory, "wav2vec2", AudioEncoderConfig))
    encoder.load_state_dict(names.audio_encoder(read_tensors(directory, "wav2vec2.weights")))
    encoder.eval()
    io = read_tensors(directory, "wav2vec2.io")
    normalized = torch.from_numpy(normalize(io["speech"].numpy()))
    ours = encoder.encode(io["normalized"], frames=len(io["embedding"]))
    return [
        ParityRow("wav2vec2", "normalisation", "normalized", relative_error(normalized, io["normalized"])),
        ParityRow("wav2vec2", "all layers", "embedding", relative_error(ours, io["embedding"])),
    ]
