"""The full VAE over diffusers' AutoencoderKLWan, latent frame by latent frame. Shapes as in `liveact_models.vae.base`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from liveact_models.config import VaeConfig
from liveact_models.vae.base import Parts, Vae
from liveact_models.vae.cache import DecoderCache, Slot


class StreamingVae(Vae):
    """Parameter names are diffusers'."""

    def __init__(self, config: VaeConfig, parts: Parts = "both") -> None:
        """Raises `ValueError` for unknown `parts`."""
        from diffusers import AutoencoderKLWan  # takes seconds to import

        from liveact_models.vae import kernels

        super().__init__(parts)
        self.config = config
        self._layout = torch.contiguous_format
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

    def _encode_chunks(self, chunks: list[torch.Tensor]) -> torch.Tensor:
        weight = self.quant_conv.weight
        cache: list[Slot] = [None] * _causal_convs(self.encoder)
        latents = []
        for chunk in chunks:
            features = self.encoder(chunk[None].to(weight), feat_cache=cache, feat_idx=[0])
            mean, _log_variance = self.quant_conv(features)[0].chunk(2, dim=0)
            latents.append((mean - self.mean) / self.std)
        return torch.cat(latents, dim=1)

    def arrange(self, *, channels_last: bool, compile: bool) -> None:
        self._layout = torch.channels_last_3d if channels_last else torch.contiguous_format
        for parameter in self.parameters():
            # In a plane there are four dimensions; a norm's weight has no pixels.
            planes = {4: torch.channels_last, 5: torch.channels_last_3d} if channels_last else {}
            layout = planes.get(parameter.dim(), torch.contiguous_format)
            parameter.data = parameter.data.contiguous(memory_format=layout)
        if compile:
            from liveact_models.vae import kernels

            kernels.fuse(self)

    @torch.no_grad()
    def decode_frame(self, latent: torch.Tensor, cache: DecoderCache) -> torch.Tensor:
        weight = self.post_quant_conv.weight
        first = not cache.started
        slots = self._laid_out(cache.slots) or [None] * _causal_convs(self.decoder)
        hidden = self.post_quant_conv((latent[None, :, None] * self.std + self.mean).to(weight))
        frames = self.decoder(hidden, feat_cache=slots, feat_idx=[0], first_chunk=first)
        cache.slots = self._laid_out(slots)
        return frames[0]

    def _laid_out(self, slots: list[Slot]) -> list[Slot]:
        """In the type and the layout of this decoder, whichever one they come from.

        An adopted cache comes back contiguous; a convolution's last bit may depend on strides, so all caches have the same.
        """
        dtype = self.post_quant_conv.weight.dtype
        return [
            slot.to(dtype).contiguous(memory_format=self._layout) if isinstance(slot, torch.Tensor) else slot
            for slot in slots
        ]


def _causal_convs(module: nn.Module) -> int:
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

    return sum(isinstance(part, WanCausalConv3d) for part in module.modules())
