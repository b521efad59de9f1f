"""Block-causal self-attention of training, with ConvKV memory as tokens (paper, stages 1 and 2).

Block 0 sees itself; block 1 sees block 0 and itself; block n >= 2 sees, at slots 0-5, what the caches of inference
would hold: the reference frames, two compressed long-term frames, the last two frames of block n - 1, and itself.
Two forms of the same function: a call a block, and one call with a mask over keys to which every block's memory is
appended with its RoPE reset to the memory's slots.

Shapes: B clips, T tokens of all blocks, S tokens of a latent frame, H heads, d head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from liveact_models.memory import LONG_TERM, NO_LONG_TERM, REFERENCE, SHORT_TERM
from liveact_models.timeline import CONTEXT_SLOTS, WINDOW_SLOTS
from liveact_models.transformer.rope import RopeTable, rotate

Memory = Literal["conv", "mean", "none"]


def block_causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sizes: Sequence[int],
    rope: RopeTable,
    weight: Tensor,
    memory: Memory = "conv",
    form: str = "blocks",
) -> Tensor:
    """q, k, v [B, T, H, d] before RoPE, the tokens of each block in `sizes` -> [B, T, H, d].

    `rope` covers the 14 slots of a window, `weight` is the layer's compression [D, 1, 5].
    """
    if memory not in get_args(Memory):
        raise ValueError(f"memory {memory!r}: accepted are {', '.join(get_args(Memory))}")
    contexts = list(
        zip(block_contexts(k, sizes, weight, memory), block_contexts(v, sizes, weight, memory), strict=True)
    )
    if form == "mask":
        return _masked(q, k, v, sizes, rope, contexts)
    from liveact_models.training.clip_transformer import attend

    outputs, start = [], 0
    for size, (old_k, old_v) in zip(sizes, contexts, strict=True):
        own = slice(start, start + size)
        keys, values = k[:, own], v[:, own]
        if old_k is not None and old_v is not None:
            keys, values = torch.cat((old_k, keys), dim=1), torch.cat((old_v, values), dim=1)
        length = keys.shape[1]
        queries = rotate(q[:, own], rope.tokens(length - size, length))
        outputs.append(attend(queries, rotate(keys, rope.tokens(0, length)), values))
        start += size
    return torch.cat(outputs, dim=1)


def block_contexts(x: Tensor, sizes: Sequence[int], weight: Tensor, memory: Memory) -> list[Tensor | None]:
    """Of keys, or values, [B, T, H, d]: what each block sees of the past [B, 6 * S, H, d], None for block 0."""
    contexts: list[Tensor | None] = [None]
    context: Tensor | None = None
    for part in x.split(list(sizes), dim=1)[:-1]:
        context = part if context is None else remember_batch(context, part, weight, memory)
        contexts.append(context)
    return contexts


def remember_batch(context: Tensor, fresh: Tensor, weight: Tensor, memory: Memory) -> Tensor:
    """`memory.remember` for a batch: [B, 6 * S, H, d] and [B, 8 * S, H, d] -> [B, 6 * S, H, d]."""
    slots = torch.cat((context, fresh), dim=1).unflatten(1, (WINDOW_SLOTS, -1))
    if memory == "none":
        long_term = [slots[:, frame, None] for frame in NO_LONG_TERM]
    else:
        kernel = torch.full_like(weight, 1 / weight.shape[-1]) if memory == "mean" else weight
        long_term = [_compress(slots[:, frames], kernel) for frames in LONG_TERM]
    return torch.cat((slots[:, REFERENCE], *long_term, slots[:, SHORT_TERM]), dim=1).flatten(1, 2)


def _compress(frames: Tensor, weight: Tensor) -> Tensor:
    """[B, 5, S, H, d] -> [B, 1, S, H, d]: the depthwise convolution as a weighted sum of 5 consecutive tokens."""
    clips, count, tokens, heads, dim = frames.shape
    groups = frames.reshape(clips, tokens, count, heads, dim)
    taps = weight[:, 0].T.reshape(count, heads, dim).to(frames.dtype)
    return (groups * taps).sum(dim=2)[:, None]


def _masked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sizes: Sequence[int],
    rope: RopeTable,
    contexts: Sequence[tuple[Tensor | None, Tensor | None]],
) -> Tensor:
    """One call: keys are all frames at their own slots, then the appended memory of blocks 2, 3, ... at slots 0-5."""
    frame = len(rope.turn) // WINDOW_SLOTS
    context = rope.tokens(0, CONTEXT_SLOTS * frame)
    current = rope.tokens(CONTEXT_SLOTS * frame, WINDOW_SLOTS * frame)
    tables = [context if block == 0 else current for block in range(len(sizes))]
    own = RopeTable(torch.cat([t.turn for t in tables]))
    keys, values = [rotate(k, own)], [v]
    for old_k, old_v in contexts[2:]:
        assert old_k is not None
        assert old_v is not None
        keys.append(rotate(old_k, context))
        values.append(old_v)
    mask = block_mask(tuple(sizes), CONTEXT_SLOTS * frame, q.device)
    out = F.scaled_dot_product_attention(
        rotate(q, own).transpose(1, 2),
        torch.cat(keys, dim=1).transpose(1, 2),
        torch.cat(values, dim=1).transpose(1, 2),
        attn_mask=mask,
    )
    return out.transpose(1, 2)


@lru_cache(maxsize=8)
def block_mask(sizes: tuple[int, ...], context_tokens: int, device: torch.device) -> Tensor:
    """[T, T + memory tokens] bool: who sees whom.

    Block 0 sees itself, block 1 block 0 too; block n >= 2 sees itself and its own appended memory instead of frames.
    """
    total, later = sum(sizes), max(0, len(sizes) - 2)
    mask = torch.zeros(total, total + later * context_tokens, dtype=torch.bool, device=device)
    edges = [0]
    for size in sizes:
        edges.append(edges[-1] + size)
    for block, (start, stop) in enumerate(pairwise(edges)):
        mask[start:stop, (0 if block == 1 else start) : stop] = True
        if block >= 2:
            memory = total + (block - 2) * context_tokens
            mask[start:stop, memory : memory + context_tokens] = True
    return mask
