"""The three attentions of a layer (model-facts, "The network, step by step").

Heads stay an explicit dimension, [tokens, heads, head_dim], between the projections: several ranks share them (`parallel`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liveact_models.config import TransformerConfig
from liveact_models.transformer.rope import RopeTable, rotate

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one layer, each [tokens, heads, head_dim]."""

MEMORY_STRIDE = 5
"""Tokens that ConvKV compresses into one."""


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(head_dim)) v, without a mask.

    q [batch, queries, heads, head_dim], k and v [batch, keys, heads, head_dim] -> the shape of q. Inputs without the
    batch dimension give an output without it.
    """
    if q.dim() == 3:
        return attend(q[None], k[None], v[None])[0]
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2)


class CachedAttention(nn.Module):
    """What of the self-attention sees all tokens and keeps to its heads. It has no weights."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, context: KeyValue | None, rope: RopeTable
    ) -> tuple[Tensor, KeyValue]:
        """q, k, v of the new tokens, each [tokens, heads, head_dim] -> the output, shaped like q, and the new (k, v)."""
        keys = k if context is None else torch.cat((context[0], k))
        values = v if context is None else torch.cat((context[1], v))
        queries = rotate(q, rope.tokens(len(keys) - len(q), len(keys)))
        return attend(queries, rotate(keys, rope), values), (k, v)


class SelfAttention(nn.Module):
    """Attention of the current frames to the context and to themselves, with the ConvKV weights of the layer."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads = (config.num_heads, config.head_dim)
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = nn.RMSNorm(dim, eps=config.eps)
        self.norm_k = nn.RMSNorm(dim, eps=config.eps)
        self.cached = CachedAttention()
        self.memory_proj_k = _memory_projection(dim)
        # In the released checkpoint and never used there: values are compressed with memory_proj_k as well.
        self.memory_proj_v = _memory_projection(dim)

    def forward(self, x: Tensor, context: KeyValue | None, rope: RopeTable) -> tuple[Tensor, KeyValue]:
        """x [tokens, dim] -> the output [tokens, dim] and the new keys (before RoPE) and values.

        `rope` covers the keys: the context's tokens, then x's.
        """
        q = self.norm_q(self.q(x)).unflatten(-1, self.heads)
        k = self.norm_k(self.k(x)).unflatten(-1, self.heads)
        v = self.v(x).unflatten(-1, self.heads)
        out, fresh = self.cached(q, k, v, context, rope)
        return self.o(out.flatten(-2)), fresh


def _memory_projection(dim: int) -> nn.Conv1d:
    projection = nn.Conv1d(dim, dim, MEMORY_STRIDE, stride=MEMORY_STRIDE, groups=dim, bias=False)
    nn.init.constant_(projection.weight, 1 / MEMORY_STRIDE)
    return projection


class CrossAttention(nn.Module):
    """Attention to the text and to the image tokens, summed before the output projection."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads = (config.num_heads, config.head_dim)
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = nn.RMSNorm(dim, eps=config.eps)
        self.norm_k = nn.RMSNorm(dim, eps=config.eps)
        self.k_img = nn.Linear(dim, dim)
        self.v_img = nn.Linear(dim, dim)
        self.norm_k_img = nn.RMSNorm(dim, eps=config.eps)

    def text_keys(self, text: Tensor) -> KeyValue:
        """Embedded text [text_len, dim] -> its keys and values."""
        return self.norm_k(self.k(text)).unflatten(-1, self.heads), self.v(text).unflatten(-1, self.heads)

    def image_keys(self, image: Tensor) -> KeyValue:
        """Embedded CLIP tokens [clip_tokens, dim] -> their keys and values."""
        return self.norm_k_img(self.k_img(image)).unflatten(-1, self.heads), self.v_img(image).unflatten(-1, self.heads)

    def forward(self, x: Tensor, text: KeyValue, image: KeyValue) -> Tensor:
        """x [tokens, dim] -> [tokens, dim]."""
        q = self.norm_q(self.q(x)).unflatten(-1, self.heads)
        return self.o((attend(q, *text) + attend(q, *image)).flatten(-2))


class AudioCrossAttention(nn.Module):
    """Attention of each latent frame to its own audio tokens."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads = (config.num_heads, config.head_dim)
        self.q_linear = nn.Linear(dim, dim)
        self.kv_linear = nn.Linear(config.output_dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, audio: Tensor, silent_frames: int) -> Tensor:
        """x [tokens, dim], audio [latent_frames, context_tokens, output_dim] -> [tokens, dim].

        The output is zero for the tokens of the first `silent_frames` latent frames.
        """
        silent_tokens = silent_frames * (len(x) // len(audio))
        q = self.q_linear(x).unflatten(-1, self.heads).unflatten(0, (len(audio), -1))
        k, v = (part.unflatten(-1, self.heads) for part in self.kv_linear(audio).chunk(2, dim=-1))
        heard = self.proj(attend(q, k, v).flatten(-2).flatten(0, 1))
        return F.pad(heard[silent_tokens:], (0, 0, silent_tokens, 0))
