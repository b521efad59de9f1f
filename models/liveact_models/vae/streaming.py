"""The VAE over diffusers' AutoencoderKLWan, latent frame by latent frame: memory does not grow with the length.

Shapes: C = 3 colours, Z = 16 latent channels, T video frames, F latent frames, T = 1 + 4 * (F - 1), strides 4x8x8.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from torch import nn

from liveact_models.config import VaeConfig
from liveact_models.timeline import FRAMES_PER_LATENT, WINDOW_FRAMES
from liveact_models.vae.cache import DecoderCache, Slot

Parts = Literal["both", "encode", "decode"]
SPATIAL_STRIDE = 8


class StreamingVae(nn.Module):
    """Encoder and decoder with their causal feature caches in the caller's hands.

    `parts` builds one direction only, for the process that needs no other. Parameter names are diffusers'.
    """

    def __init__(self, config: VaeConfig, parts: Parts = "both") -> None:
        from diffusers import AutoencoderKLWan  # takes seconds to import

        from liveact_models.vae import kernels

        if parts not in get_args(Parts):
            raise ValueError(f"parts {parts!r}: accepted are {', '.join(get_args(Parts))}")
        super().__init__()
        self.config = config
        self.parts = parts
        whole: Any = AutoencoderKLWan(
            base_dim=config.dim,
            z_dim=config.z_dim,
            dim_mult=list(config.dim_mult),
            num_res_blocks=config.num_res_blocks,
            attn_scales=list(config.attn_scales),
            temperal_downsample=list(config.temperal_downsample),
        )
        if parts != "decode":
            self.encoder, self.quant_conv = whole.encoder, whole.quant_conv
        if parts != "encode":
            self.decoder, self.post_quant_conv = whole.decoder, whole.post_quant_conv
        kernels.put_on(self)
        # Constants, not weights: they stay real when the module is built on the meta device.
        for name, values in (("mean", config.mean), ("std", config.std)):
            constant = torch.tensor(values, dtype=torch.float32, device="cpu").view(-1, 1, 1, 1)
            self.register_buffer(name, constant, persistent=False)

    mean: torch.Tensor
    std: torch.Tensor

    @torch.no_grad()
    def encode(self, video: torch.Tensor) -> torch.Tensor:
        """Normalised latents [Z, F, H/8, W/8] of video [C, T, H, W] in [-1, 1].

        Raises `ValueError` unless T = 1 + 4n and both sides are multiples of 8.
        """
        frames, height, width = video.shape[1:]
        if frames % FRAMES_PER_LATENT != 1:
            raise ValueError(f"video of {frames} frames: accepted are 1 + {FRAMES_PER_LATENT}n")
        if height % SPATIAL_STRIDE or width % SPATIAL_STRIDE:
            raise ValueError(f"video of {width}x{height}: both sides must be multiples of {SPATIAL_STRIDE}")
        first, rest = video[:, :1], video[:, 1:]
        return self._encode_chunks([first, *(rest.split(FRAMES_PER_LATENT, dim=1) if frames > 1 else ())])

    @torch.no_grad()
    def encode_reference(self, image: torch.Tensor) -> torch.Tensor:
        """Latents [Z, 14, H/8, W/8] of image [C, H, W] in [-1, 1], then 52 zero frames.

        Source: model-facts, "Reference condition".
        """
        video = image.new_zeros(image.shape[0], WINDOW_FRAMES, *image.shape[1:])
        video[:, 0] = image
        return self.encode(video)

    def _encode_chunks(self, chunks: list[torch.Tensor]) -> torch.Tensor:
        weight = self.quant_conv.weight
        cache: list[Slot] = [None] * _causal_convs(self.encoder)
        latents = []
        for chunk in chunks:
            features = self.encoder(chunk[None].to(weight), feat_cache=cache, feat_idx=[0])
            mean, _log_variance = self.quant_conv(features)[0].chunk(2, dim=0)
            latents.append((mean - self.mean) / self.std)
        return torch.cat(latents, dim=1)

    @staticmethod
    def new_cache() -> DecoderCache:
        """The cache of a stream from which nothing was decoded."""
        return DecoderCache()

    @torch.no_grad()
    def decode_frame(self, latent: torch.Tensor, cache: DecoderCache) -> torch.Tensor:
        """Video [C, 1 or 4, H, W], unclamped, of one normalised latent frame [Z, h, w]; `cache` moves on by one."""
        weight = self.post_quant_conv.weight
        first = not cache.started
        slots = list(cache.slots) or [None] * _causal_convs(self.decoder)
        hidden = self.post_quant_conv((latent[None, :, None] * self.std + self.mean).to(weight))
        frames = self.decoder(hidden, feat_cache=slots, feat_idx=[0], first_chunk=first)
        # An adopted cache comes back contiguous; a convolution's last bit may depend on strides, so all caches are.
        cache.slots = [slot.contiguous() if isinstance(slot, torch.Tensor) else slot for slot in slots]
        return frames[0]

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


def to_rgb(frames: torch.Tensor) -> torch.Tensor:
    """Pictures [T, H, W, C] (uint8) of video [C, T, H, W] in [-1, 1], clamped and rounded."""
    return ((frames.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).contiguous()


def _causal_convs(module: nn.Module) -> int:
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

    return sum(isinstance(part, WanCausalConv3d) for part in module.modules())
