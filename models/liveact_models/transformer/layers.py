"""A layer of the transformer, its head and the embeddings of time and image (model-facts, "The network, step by step").

Norms, modulation and gates are computed in float32 and rounded once, whatever the type of the weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liveact_models.config import TransformerConfig
from liveact_models.transformer.attention import AudioCrossAttention, CrossAttention, KeyValue, SelfAttention
from liveact_models.transformer.rope import RopeTable


class TransformerLayer(nn.Module):
    """Self-attention, cross-attention, audio cross-attention and FFN, the first and the last modulated by the time."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.eps = config.eps
        self.self_attn = SelfAttention(config)
        self.norm3 = nn.LayerNorm(dim, eps=config.eps)
        self.cross_attn = CrossAttention(config)
        self.norm_x = nn.LayerNorm(dim, eps=config.eps)
        self.audio_cross_attn = AudioCrossAttention(config)
        self.ffn = nn.Sequential(
            nn.Linear(dim, config.ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(config.ffn_dim, dim)
        )
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        text: KeyValue,
        image: KeyValue,
        audio: Tensor | None,
        silent_frames: int,
        context: KeyValue | None,
        rope: RopeTable,
    ) -> tuple[Tensor, KeyValue]:
        """x [tokens, dim], time [6, dim] -> x and the new keys and values of the self-attention.

        `audio` None leaves the audio cross-attention out; the first `silent_frames` latent frames do not hear.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation[0].float() + time
        out, fresh = self.self_attn(modulate(x, shift1, scale1, self.eps), context, rope)
        x = gated(x, out, gate1)
        x = x + self.cross_attn(self.norm3(x), text, image)
        if audio is not None:
            x = x + self.audio_cross_attn(self.norm_x(x), audio, silent_frames)
        out = self.ffn(modulate(x, shift2, scale2, self.eps))
        return gated(x, out, gate2), fresh


class Head(nn.Module):
    """The last norm and the projection of a token to its patch."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.eps = config.eps
        p, q, r = config.patch_size
        self.head = nn.Linear(config.dim, p * q * r * config.out_dim)
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x [tokens, dim], time [dim] -> [tokens, patch * out_dim]."""
        shift, scale = self.modulation[0].float() + time
        return self.head(modulate(x, shift, scale, self.eps))


class ImageEmbedding(nn.Module):
    """CLIP tokens [clip_tokens, clip_dim] -> [clip_tokens, dim]."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.LayerNorm(config.clip_dim),
            nn.Linear(config.clip_dim, config.clip_dim),
            nn.GELU(),
            nn.Linear(config.clip_dim, config.dim),
            nn.LayerNorm(config.dim),
        )

    def forward(self, clip: Tensor) -> Tensor:
        return self.proj(clip)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm without affine, then scale and shift: x [tokens, dim], shift and scale [dim] in float32."""
    return (F.layer_norm(x.float(), x.shape[-1:], eps=eps) * (1 + scale) + shift).to(x.dtype)


def gated(x: Tensor, out: Tensor, gate: Tensor) -> Tensor:
    """x + gate * out: x and out [tokens, dim], gate [dim] in float32."""
    return (x.float() + gate * out.float()).to(x.dtype)


def sinusoid(timestep: float, dim: int, device: torch.device) -> Tensor:
    """[cos(t w), sin(t w)] with w_i = 10000^(-i / half): [dim] in float32, computed in float64.

    The time itself is rounded to float32, as the released code passes it.
    """
    half = dim // 2
    time = torch.full((), timestep, dtype=torch.float32, device=device).double()
    angles = time * 10000.0 ** -(torch.arange(half, dtype=torch.float64, device=device) / half)
    return torch.cat((angles.cos(), angles.sin())).float()
