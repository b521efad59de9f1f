"""Ulysses around the transformer: a rank computes its tokens in every layer and its heads in the self-attention.

Everything but the self-attention treats tokens alike, so a rank takes a run of them through the whole network: it has all
weights. Around `CachedAttention` tokens become heads and heads tokens again. Only the new frames' queries, keys and values
travel: the context is kept by heads, and so is what ConvKV makes of it, which is depthwise. The q and k norms are over all
heads and come before.

Tokens and heads are shared out as evenly as they go, in runs; neither must divide by the ranks, nor frames end where a run does.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from liveact_models.config import ConfigError
from liveact_models.parallel.group import Peers
from liveact_models.parallel.wire import ExactWire, Wire
from liveact_models.transformer import KeyValue, LiveActTransformer

EXACT = ExactWire()


def shares(count: int, ranks: int) -> list[range]:
    """`count` things in runs, one a rank, none more than one longer than another."""
    bounds = [count * rank // ranks for rank in range(ranks + 1)]
    return [range(start, stop) for start, stop in pairwise(bounds)]


def heads_of(heads: int, ranks: int) -> list[range]:
    """The attention heads of every rank; raises `ConfigError` where there are more ranks than heads."""
    if not 1 <= ranks <= heads:
        raise ConfigError(f"{ranks} ranks cannot share {heads} attention heads: accepted are 1 to {heads} ranks")
    return shares(heads, ranks)


def share(transformer: LiveActTransformer, peers: Peers, wire: Wire = EXACT) -> range:
    """Make the transformer one rank among its peers; gives the heads whose memory is kept here.

    From then on the ranks call it together, with equal arguments but for `context`, whose heads are the rank's. Each gets
    the whole velocity, and keys and values of its heads. `wire` is how queries, keys, values and outputs travel.

    Raises `ConfigError` where there are more ranks than heads.
    """
    heads = heads_of(transformer.config.num_heads, peers.ranks)
    part = _Part(peers, wire, heads)
    layers = transformer.layers
    layers[0].register_forward_pre_hook(part.cut)
    for layer in layers:
        layer.self_attn.cached.register_forward_pre_hook(part.tokens_to_heads)
        layer.self_attn.cached.register_forward_hook(part.heads_to_tokens)
        layer.audio_cross_attn.register_forward_pre_hook(part.to_whole_frames)
        layer.audio_cross_attn.register_forward_hook(part.to_own_tokens)
    transformer.head.register_forward_hook(part.gather)
    return heads[peers.rank]


class _Part:
    """What the hooks of one rank know: of the block in the network, every rank's `tokens` and a latent frame's count."""

    def __init__(self, peers: Peers, wire: Wire, heads: list[range]) -> None:
        self.peers, self.wire, self.heads = peers, wire, heads
        self.tokens: list[range] = []
        self.frame_tokens = 1

    @property
    def own_tokens(self) -> range:
        return self.tokens[self.peers.rank]

    @property
    def own_heads(self) -> range:
        return self.heads[self.peers.rank]

    def cut(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Before the first layer: x [tokens, dim] -> the rank's [own, dim]."""
        x, *others = args
        self.tokens = shares(len(x), self.peers.ranks)
        return x[self.own_tokens.start : self.own_tokens.stop], *others

    def tokens_to_heads(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """q, k, v, each [own tokens, heads, head_dim] -> each [tokens, own heads, head_dim]."""
        q, k, v, *others = args
        stacked = torch.stack((q, k, v))
        sent = [stacked[:, :, heads.start : heads.stop] for heads in self.heads]
        shapes = [(3, len(tokens), len(self.own_heads), q.shape[-1]) for tokens in self.tokens]
        return *torch.cat(self._swap(sent, shapes), dim=1).unbind(), *others

    def heads_to_tokens(
        self, module: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, KeyValue]
    ) -> tuple[Tensor, KeyValue]:
        """The attention's output [tokens, own heads, head_dim] -> [own tokens, heads, head_dim]; keys and values stay."""
        out, fresh = output
        sent = [out[tokens.start : tokens.stop] for tokens in self.tokens]
        shapes = [(len(self.own_tokens), len(heads), out.shape[-1]) for heads in self.heads]
        return torch.cat(self._swap(sent, shapes), dim=1), fresh

    def to_whole_frames(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor, Tensor, int]:
        """x [own tokens, dim], the audio of all frames -> x filled up to whole latent frames, and the audio of those."""
        x, audio, silent_frames = args
        frames, before, after = self._frames(len(audio))
        x = torch.cat((x.new_zeros(before, x.shape[-1]), x, x.new_zeros(after, x.shape[-1]))) if before or after else x
        return x, audio[frames.start : frames.stop], max(silent_frames - frames.start, 0)

    def to_own_tokens(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """The audio attention of whole latent frames -> that of the rank's tokens."""
        before = self.own_tokens.start % self.frame_tokens
        return output[before : before + len(self.own_tokens)]

    def gather(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """After the head: the rank's patches [own tokens, patch] -> everybody's, bit for bit."""
        shapes = [(len(tokens), output.shape[-1]) for tokens in self.tokens]
        return torch.cat(self._swap([output] * self.peers.ranks, shapes, EXACT))

    def _frames(self, frames: int) -> tuple[range, int, int]:
        """The latent frames that the rank's tokens belong to, and the tokens of those before and after its own."""
        self.frame_tokens = self.tokens[-1].stop // frames
        own, size = self.own_tokens, self.frame_tokens
        first, last = own.start // size, -(-own.stop // size)
        return range(first, last), own.start - first * size, last * size - own.stop

    def _swap(
        self, parts: Sequence[Tensor], shapes: Sequence[tuple[int, ...]], wire: Wire | None = None
    ) -> list[Tensor]:
        """parts[i] to rank i, and from it one of shapes[i]."""
        wire = wire or self.wire
        dtype = parts[0].dtype
        received = self.peers.exchange([wire.pack(part) for part in parts], [wire.size(s, dtype) for s in shapes])
        return [wire.unpack(packed, shape, dtype) for packed, shape in zip(received, shapes, strict=True)]
