"""What the stateless stages compute, arrays in and arrays out: the same in a replica and in one process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from liveact_services.conductor.stages import Features

if TYPE_CHECKING:
    import torch

    from liveact_models.encoders import AudioEncoder, ImageEncoder, TextEncoder
    from liveact_models.vae import Vae
    from liveact_models.voice import BlockVoice


def encode_text(encoder: TextEncoder, prompt: str, text_len: int) -> np.ndarray:
    """The prompt's embedding, float32 [tokens <= text_len, text_dim]."""
    return _array(encoder.encode(prompt, text_len))


def encode_image(encoder: ImageEncoder, portrait: np.ndarray, device: torch.device) -> np.ndarray:
    """CLIP tokens of a portrait [3, H, W] in [-1, 1]: float32 [clip_tokens, clip_dim]."""
    return _array(encoder.encode(tensor(portrait, device)))


def encode_reference(vae: Vae, portrait: np.ndarray, device: torch.device) -> np.ndarray:
    """Latents of [portrait, 52 zero frames]: float32 [3, H, W] -> [16, 14, H/8, W/8]."""
    return _array(vae.encode_reference(tensor(portrait, device)))


def encode_voice(encoder: AudioEncoder, voice: BlockVoice, block: int, trained_fps: int) -> Features:
    """Features of the frames [start - 2, stop + 2) of the block."""
    from liveact_models.voice import block_features

    began = time.perf_counter()
    features = _array(block_features(encoder, voice, block, trained_fps))
    return Features(features, time.perf_counter() - began)


def tensor(array: np.ndarray, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A copy on the device.

    Always a copy: an array out of the object store is read-only and lies where it lies, and a kernel's result may depend on
    alignment.
    """
    import torch

    return torch.tensor(array, device=device, dtype=dtype)


def _array(result: torch.Tensor) -> np.ndarray:
    return result.float().cpu().numpy()
