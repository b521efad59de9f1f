"""A small causal autoencoder with the full VAE's strides and API, fast enough to decode on a laptop's CPU.

After TAEHV (github.com/madebyollin/taehv): plain convolutions and ReLU, no norms, and in every block at the latent rate the
features of the latent frame before as the only memory. Video is folded into channels at both ends, so that no convolution
runs above a quarter of the picture's side. Outside the blocks nothing bends: without them this is a linear codec of blocks of
4 x 8 x 8 pixels, which is what training begins with (`liveact_models.training.principal`).

Shapes as in `liveact_models.vae.base`. Inside, time and batch are one dimension, time outermost: of B clips, N = F * B latent
frames, and the latent frame before stands B rows above.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from liveact_models.compiling import compiled
from liveact_models.config import TinyVaeConfig
from liveact_models.timeline import FRAMES_PER_LATENT
from liveact_models.vae.base import Parts, Vae, check_video
from liveact_models.vae.cache import DecoderCache

LATENT_BOUND = 3.0
"""Latents lie within +-3 before `LatentNorm`: no latent a denoiser makes is far from all that the decoder has seen."""
PATCH, STEP = 4, 2
"""Side of the pixel patch at either end, and of the further step to the latent's grid: 8 together."""

Memory = list[torch.Tensor]
"""What each block at the latent rate keeps of the last latent frame, [B, D, h, w]; empty before a stream's first."""


class TinyVae(Vae):
    """Latents are 3 * tanh(z / 3), put to mean zero and deviation one by `latent_norm`.

    A stream begins with its first frame shown four times: the first latent frame is one video frame, every other four.
    """

    def __init__(self, config: TinyVaeConfig, parts: Parts = "both") -> None:
        """Raises `ValueError` for unknown `parts`."""
        super().__init__(parts)
        self.config = config
        self._compiled: Callable[[torch.Tensor, int, Memory], tuple[torch.Tensor, Memory]] | None = None
        self.latent_norm = LatentNorm(config.z_dim)
        if parts != "decode":
            self.encoder = Encoder(config)
        if parts != "encode":
            self.decoder = Decoder(config)

    def arrange(self, *, channels_last: bool, compile: bool) -> None:
        # Inside, features are always last.
        self._compiled = compiled(self.decoder.forward, True) if compile else None

    def encode_clips(self, video: torch.Tensor) -> torch.Tensor:
        """Latents [B, Z, F, H/8, W/8] of clips [B, C, T, H, W], each the start of a stream; differentiable.

        What `encode` gives, but for rounding. Raises `ValueError` as `encode` does.
        """
        check_video(*video.shape[2:])
        led_in = torch.cat([video[:, :, :1]] * (FRAMES_PER_LATENT - 1) + [video], dim=2)
        latents, _ = self.encoder(_time_first(led_in), len(video), [])
        return _clips_first(self.latent_norm(latents.float()), len(video))

    def decode_clips(self, latents: torch.Tensor) -> torch.Tensor:
        """Clips [B, C, T, H, W], unclamped, of latents [B, Z, F, h, w] from the start of a stream; differentiable.

        What `decode` gives, but for rounding.
        """
        frames, _ = self.decoder(self.latent_norm.inverse(_time_first(latents)), len(latents), [])
        return _clips_first(frames.float(), len(latents))[:, :, FRAMES_PER_LATENT - 1 :]

    def _encode_chunks(self, chunks: list[torch.Tensor]) -> torch.Tensor:
        weight = self.encoder.entry.weight
        memory: Memory = []
        latents = []
        for chunk in chunks:
            frames = chunk.to(weight).transpose(0, 1).expand(FRAMES_PER_LATENT, -1, -1, -1)
            latent, memory = self.encoder(frames, 1, memory)
            latents.append(self.latent_norm(latent.float()))
        return torch.cat(latents).transpose(0, 1)

    @torch.no_grad()
    def decode_frame(self, latent: torch.Tensor, cache: DecoderCache) -> torch.Tensor:
        first = not cache.started
        weight, decoder = self.decoder.entry.weight, self._compiled or self.decoder
        memory = [slot.to(weight.dtype) for slot in cache.slots if isinstance(slot, torch.Tensor)]
        z = self.latent_norm.inverse(latent[None]).to(weight)
        frames, memory = decoder(z, 1, memory)
        # An adopted cache comes back contiguous; a convolution's last bit may depend on strides, so all caches are.
        cache.slots = [features.contiguous() for features in memory]
        return frames[FRAMES_PER_LATENT - 1 if first else 0 :].transpose(0, 1)


class LatentNorm(nn.Module):
    """Channels to mean zero and deviation one, by figures measured after training: buffers, no gradient reaches them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))

    weight: torch.Tensor
    """Deviation of each channel."""
    bias: torch.Tensor
    """Mean of each channel."""

    def forward(self, latents: torch.Tensor) -> torch.Tensor:  # [N, Z, h, w]
        return (latents - self.bias.view(-1, 1, 1)) / self.weight.view(-1, 1, 1)

    def inverse(self, latents: torch.Tensor) -> torch.Tensor:  # [N, Z, h, w]
        return latents * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


class Encoder(nn.Module):
    """Frames [4 * N, C, H, W] to bounded latents [N, Z, H/8, W/8]."""

    def __init__(self, config: TinyVaeConfig) -> None:
        super().__init__()
        frame, latent = config.frame_dim, config.encoder_dim
        self.entry = _conv(3 * PATCH**2, frame)
        self.frame_blocks = nn.ModuleList(FrameBlock(frame) for _ in range(config.encoder_frame_blocks))
        self.merge = nn.Conv2d(FRAMES_PER_LATENT * STEP**2 * frame, latent, 1)
        self.memory_blocks = nn.ModuleList(MemoryBlock(latent) for _ in range(config.encoder_memory_blocks))
        self.exit = _conv(latent, config.z_dim)

    def forward(self, frames: torch.Tensor, clips: int, memory: Memory) -> tuple[torch.Tensor, Memory]:
        x = self.entry(fold(frames, clips, 1, PATCH))
        for block in self.frame_blocks:
            x = block(x)
        x = self.merge(fold(x, clips, FRAMES_PER_LATENT, STEP))
        x, memory = _remember(self.memory_blocks, x, clips, memory)
        z = self.exit(x).float()
        return LATENT_BOUND * torch.tanh(z / LATENT_BOUND), memory


class Decoder(nn.Module):
    """Bounded latents [N, Z, h, w] to frames [4 * N, C, 8h, 8w]."""

    def __init__(self, config: TinyVaeConfig) -> None:
        super().__init__()
        frame, latent = config.frame_dim, config.decoder_dim
        self.entry = _conv(config.z_dim, latent)
        self.memory_blocks = nn.ModuleList(MemoryBlock(latent) for _ in range(config.decoder_memory_blocks))
        self.grow = nn.Conv2d(latent, FRAMES_PER_LATENT * STEP**2 * frame, 1)
        self.frame_blocks = nn.ModuleList(FrameBlock(frame) for _ in range(config.decoder_frame_blocks))
        self.exit = _conv(frame, 3 * PATCH**2)

    def forward(self, latents: torch.Tensor, clips: int, memory: Memory) -> tuple[torch.Tensor, Memory]:
        bounded = latents.clamp(-LATENT_BOUND, LATENT_BOUND)
        x = self.entry(bounded.contiguous(memory_format=torch.channels_last))
        x, memory = _remember(self.memory_blocks, x, clips, memory)
        x = unfold(self.grow(x), clips, FRAMES_PER_LATENT, STEP)
        for block in self.frame_blocks:
            x = block(x)
        return unfold(self.exit(x), clips, 1, PATCH), memory


class FrameBlock(nn.Module):
    """Two convolutions on each video frame, added to it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.inner, self.tail = _conv(dim, dim), _conv(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [4 * N, D, H/4, W/4]
        return self.tail(functional.relu_(self.inner(functional.relu(x)))).add_(x)


class MemoryBlock(nn.Module):
    """Two convolutions on each latent frame together with the one before, added to it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.inner, self.tail = _conv(2 * dim, dim), _conv(dim, dim)

    def forward(self, x: torch.Tensor, last: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[N, D, h, w] and what to keep of its last latent frame, [B, D, h, w], like `last`."""
        now = functional.relu(x)
        seen = torch.cat([last, now])
        hidden = self.inner(torch.cat([now, seen[: len(now)]], dim=1))
        return self.tail(functional.relu_(hidden)).add_(x), seen[len(now) :]


def _remember(blocks: nn.ModuleList, x: torch.Tensor, clips: int, memory: Memory) -> tuple[torch.Tensor, Memory]:
    kept = []
    for index, block in enumerate(blocks):
        last = memory[index] if memory else torch.zeros_like(x[:clips])
        x, seen = block(x, last.to(memory_format=torch.channels_last))
        kept.append(seen)
    return x, kept


def fold(x: torch.Tensor, clips: int, time: int, side: int) -> torch.Tensor:
    """Every `time` frames' patches of `side` squared into channels: [t * time * clips, C, h * side, w * side] to
    [t * clips, time * side * side * C, h, w], in channels-last memory."""
    _, channels, height, width = x.shape
    patches = x.permute(0, 2, 3, 1).reshape(-1, time, clips, height // side, side, width // side, side, channels)
    patches = patches.permute(0, 2, 3, 5, 1, 4, 6, 7)
    return patches.reshape(-1, height // side, width // side, time * side * side * channels).permute(0, 3, 1, 2)


def unfold(x: torch.Tensor, clips: int, time: int, side: int) -> torch.Tensor:
    """The inverse of `fold`."""
    _, channels, height, width = x.shape
    patches = x.permute(0, 2, 3, 1).reshape(
        -1, clips, height, width, time, side, side, channels // (time * side * side)
    )
    patches = patches.permute(0, 4, 1, 2, 5, 3, 6, 7)
    return patches.reshape(-1, height * side, width * side, patches.shape[-1]).permute(0, 3, 1, 2)


def _conv(inward: int, outward: int) -> nn.Conv2d:
    return nn.Conv2d(inward, outward, 3, padding=1)


def _time_first(x: torch.Tensor) -> torch.Tensor:
    """[B, C, T, H, W] to [T * B, C, H, W]."""
    return x.permute(2, 0, 1, 3, 4).flatten(0, 1)


def _clips_first(x: torch.Tensor, clips: int) -> torch.Tensor:
    """[T * B, C, H, W] to [B, C, T, H, W]."""
    return x.unflatten(0, (-1, clips)).permute(1, 2, 0, 3, 4)
