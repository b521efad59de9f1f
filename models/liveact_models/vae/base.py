"""What every VAE of the product does: video to latents and back, latent frame by latent frame.

Shapes: C = 3 colours, Z = 16 latent channels, T video frames, F latent frames, T = 1 + 4 * (F - 1), strides 4x8x8. Memory
does not grow with the length in either direction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import nn

from liveact_models.timeline import FRAMES_PER_LATENT, WINDOW_FRAMES
from liveact_models.vae.cache import DecoderCache

Parts = Literal["both", "encode", "decode"]
SPATIAL_STRIDE = 8


class Vae(nn.Module, ABC):
    """Encoder and decoder with their causal feature caches in the caller's hands.

    `parts` says which directions the module holds: one is enough for the process that needs no other.
    """

    def __init__(self, parts: Parts) -> None:
        if parts not in get_args(Parts):
            raise ValueError(f"parts {parts!r}: accepted are {', '.join(get_args(Parts))}")
        super().__init__()
        self.parts = parts

    @torch.no_grad()
    def encode(self, video: torch.Tensor) -> torch.Tensor:
        """Normalised latents [Z, F, H/8, W/8] of video [C, T, H, W] in [-1, 1].

        Raises `ValueError` unless T = 1 + 4n and both sides are multiples of 8.
        """
        check_video(*video.shape[1:])
        first, rest = video[:, :1], video[:, 1:]
        chunks = rest.split(FRAMES_PER_LATENT, dim=1) if rest.shape[1] else ()
        return self._encode_chunks([first, *chunks])

    @torch.no_grad()
    def encode_reference(self, image: torch.Tensor) -> torch.Tensor:
        """Latents [Z, 14, H/8, W/8] of image [C, H, W] in [-1, 1], then 52 zero frames.

        Source: model-facts, "Reference condition".
        """
        video = image.new_zeros(image.shape[0], WINDOW_FRAMES, *image.shape[1:])
        video[:, 0] = image
        return self.encode(video)

    @abstractmethod
    def _encode_chunks(self, chunks: list[torch.Tensor]) -> torch.Tensor:
        """Latents [Z, F, h, w] of one chunk a latent frame: [C, 1, H, W], then [C, 4, H, W]."""

    def arrange(self, *, channels_last: bool, compile: bool) -> None:
        """How the decoder is computed from now on; see `DecoderEngine`. Caches go on either way."""

    @staticmethod
    def new_cache() -> DecoderCache:
        """The cache of a stream from which nothing was decoded."""
        return DecoderCache()

    @abstractmethod
    def decode_frame(self, latent: torch.Tensor, cache: DecoderCache) -> torch.Tensor:
        """Video [C, 1 or 4, H, W], unclamped, of one normalised latent frame [Z, h, w]; `cache` moves on by one."""

    def decode_stream(self, latents: torch.Tensor, cache: DecoderCache) -> Iterator[torch.Tensor]:
        """Video [C, 1 or 4, H, W], unclamped, for each latent frame of latents [Z, F, h, w].

        With the cache kept between calls, block-wise decoding gives the bits of decoding the whole. A consumer that
        stops early leaves the cache after the last frames it took.
        """
        for latent in latents.unbind(dim=1):
            yield self.decode_frame(latent, cache)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """The whole video [C, T, H, W], unclamped, of latents [Z, F, h, w] from the start of a stream."""
        return torch.cat(list(self.decode_stream(latents, self.new_cache())), dim=1)


def check_video(frames: int, height: int, width: int) -> None:
    """Raise `ValueError` unless video of this size has whole latents."""
    if frames % FRAMES_PER_LATENT != 1:
        raise ValueError(f"video of {frames} frames: accepted are 1 + {FRAMES_PER_LATENT}n")
    if height % SPATIAL_STRIDE or width % SPATIAL_STRIDE:
        raise ValueError(f"video of {width}x{height}: both sides must be multiples of {SPATIAL_STRIDE}")


def to_rgb(frames: torch.Tensor) -> torch.Tensor:
    """Pictures [T, H, W, C] (uint8) of video [C, T, H, W] in [-1, 1], clamped and rounded."""
    return ((frames.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).contiguous()
