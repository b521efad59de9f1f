"""ConvKV memory: 14 slots of keys and values become 6 when a block is done with them (model-facts, "ConvKV memory").

Nothing reads the uncompressed slots again after a block, so they are compressed at commit, not before the next block:
the same numbers, and a session keeps 6 latent frames per step cache instead of 14.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from liveact_models.config import ModelConfig, SamplingConfig
from liveact_models.kernels import compress
from liveact_models.precision.fp8 import FP8, SCALE, Quantised, dequantise, quantise
from liveact_models.timeline import CONTEXT_SLOTS, WINDOW_SLOTS
from liveact_models.transformer import KeyValue

CacheForm = Literal["exact", "fp8"]
CACHE_FORMS: tuple[str, ...] = get_args(CacheForm)
"""How a session's memory is kept: in the type it was computed in, or in e4m3 with a scale a token and head."""
SCALES = ".scale"
"""Ends the name of the scales of a cache in fp8, which stand beside it."""
REFERENCE = slice(0, 2)
LONG_TERM = (slice(2, 7), slice(7, 12))
SHORT_TERM = slice(12, 14)
NO_LONG_TERM = (10, 11)
"""What stands in slots 2 and 3 with the memory switched off: the frames before the short-term ones, uncompressed."""


def cache_names(sampling: SamplingConfig) -> tuple[str, ...]:
    """The caches of a session: one a diffusion step, and with audio guidance one a step of the null-audio branch.

    A context of clean frames (the baseline, see `SamplingConfig.context`) is one cache for all steps.
    """
    if sampling.context == "clean":
        return (CLEAN_CACHE, CLEAN_NULL_CACHE) if sampling.guided else (CLEAN_CACHE,)
    return _cache_names(sampling, sampling.guided)


def _cache_names(sampling: SamplingConfig, guided: bool) -> tuple[str, ...]:
    steps = range(sampling.num_steps)
    null_steps = [step for step in steps if guided and step not in sampling.skip_audio_steps]
    return (*map(step_cache, steps), *map(null_cache, null_steps))


CLEAN_CACHE = "clean"
CLEAN_NULL_CACHE = "clean.null"


def step_cache(step: int) -> str:
    return f"step{step}"


def null_cache(step: int) -> str:
    return f"step{step}.null"


def step_caches(step: int) -> tuple[str, str]:
    """The caches that a diffusion step reads and writes; the second is there with audio guidance alone."""
    return step_cache(step), null_cache(step)


def cache_shape(
    config: ModelConfig, width: int, height: int, heads: int | None = None
) -> tuple[int, int, int, int, int]:
    """One step cache at width x height pixels: [layers, 2 (keys, values), 6 * tokens_per_frame, heads, head_dim].

    `heads`: of one rank of several; None: all.
    """
    model = config.transformer
    tokens = CONTEXT_SLOTS * frame_tokens(config, width, height)
    return model.num_layers, 2, tokens, model.num_heads if heads is None else heads, model.head_dim


def frame_tokens(config: ModelConfig, width: int, height: int) -> int:
    """Tokens of one latent frame: (H / 16) * (W / 16) with the released patch of 2x2 on strides of 8."""
    _, rows, columns = config.transformer.patch_size
    return (height // 8 // rows) * (width // 8 // columns)


def memory_bytes(
    config: ModelConfig,
    width: int,
    height: int,
    dtype: torch.dtype,
    guided: bool = False,
    heads: int | None = None,
    step: int | None = None,
) -> int:
    """Bytes of a session's memory from block 0 on, the same for a second and an hour.

    caches * layers * 2 * 6 * tokens_per_frame * dim * bytes of the type; 3 caches, 5 with audio guidance. e4m3 has four bytes of
    scale a token and head beside it. `heads`: on one rank of several, its share of them. `step`: on the device of that step.
    """
    names = _cache_names(config.sampling, guided)
    caches = len(names if step is None else {*names} & {*step_caches(step)})
    rows = math.prod(cache_shape(config, width, height, heads)[:-1])
    row = config.transformer.head_dim * dtype.itemsize + (SCALE.itemsize if dtype == FP8 else 0)
    return caches * rows * row


def remember(context: Tensor, fresh: Tensor, weight: Tensor | None) -> Tensor:
    """Keys, or values, of one layer after a block: context of 6 and fresh of 8 latent frames -> the next context of 6.

    Shapes [latent_frames * tokens, heads, head_dim]. Slots 0-1 stay, 2-6 and 7-11 are compressed into slots 2 and 3
    (long-term memory, recurrent, for slots 2-5 hold the older memory), 12-13 move to 4-5 (short-term memory). Without
    a weight nothing is compressed: slots 10 and 11 stand where the long-term memory would.
    """
    slots = torch.cat((context, fresh)).unflatten(0, (WINDOW_SLOTS, -1))
    if weight is None:
        long_term = [slots[frame, None] for frame in NO_LONG_TERM]
    else:
        long_term = [compress(slots[frames], weight) for frames in LONG_TERM]
    return torch.cat((slots[REFERENCE], *long_term, slots[SHORT_TERM])).flatten(0, 1)


def next_cache(context: Tensor | None, fresh: Sequence[KeyValue], weights: Sequence[Tensor | None]) -> Tensor:
    """A step cache after a block: [layers, 2, 6 * tokens, heads, head_dim] in memory of its own.

    Args:
        context: the cache before the block; None before block 0, whose 6 frames are the memory as they are.
        fresh: each layer's keys and values of the block.
        weights: each layer's compression [dim, 1, 5], None where nothing is compressed. The released code compresses
            values with that of the keys too.
    """
    key = fresh[0][0]
    tokens = len(key) if context is None else context.shape[2]
    cache = key.new_empty((len(fresh), 2, tokens, *key.shape[1:]))
    for layer, (parts, weight) in enumerate(zip(fresh, weights, strict=True)):
        for part, new in enumerate(parts):
            cache[layer, part] = new if context is None else remember(context[layer, part], new, weight)
    return cache


class Fp8Cache(Sequence[KeyValue]):
    """A step cache in fp8, read layer by layer in the type of the computation."""

    def __init__(self, values: Tensor, scale: Tensor, dtype: torch.dtype) -> None:
        self._quantised, self.dtype = Quantised(values, scale), dtype

    def __len__(self) -> int:
        return len(self._quantised.values)

    def __getitem__(self, layer: int) -> KeyValue:  # type: ignore[override]
        values, scale = (part[layer] for part in self._quantised)
        keys_values = dequantise(Quantised(values, scale), self.dtype)
        return keys_values[0], keys_values[1]

    @property
    def parts(self) -> Quantised:
        """Numbers and scales as they are kept."""
        return self._quantised

    def frames(self, layer: int, part: int, tokens: int) -> Quantised:
        """The reference frames' keys (part 0) or values (part 1) of a layer as they are kept."""
        values, scale = (kept[layer, part, :tokens] for kept in self._quantised)
        return Quantised(values, scale)


Context = Tensor | Fp8Cache
"""A step cache as a block reads it: each layer's keys and values."""


def read_cache(memory: Mapping[str, Tensor], name: str, dtype: torch.dtype) -> Context | None:
    """The cache of that name in a session's memory, whichever form it is kept in; None before block 0."""
    kept = memory.get(name)
    if kept is None or kept.dtype != FP8:
        return kept
    return Fp8Cache(kept, memory[name + SCALES], dtype)


def next_fp8_cache(context: Fp8Cache | None, fresh: Sequence[KeyValue], weights: Sequence[Tensor | None]) -> Quantised:
    """`next_cache` in fp8: values [layers, 2, 6 * tokens, heads, head_dim] and their scales [..., 1].

    The reference frames keep their bytes, however long the session lasts; long-term memory is rounded anew as it changes.
    """
    layers = [
        [_remembered(context, layer, part, new, weight) for part, new in enumerate(parts)]
        for layer, (parts, weight) in enumerate(zip(fresh, weights, strict=True))
    ]
    values, scales = (torch.stack([torch.stack([p[i] for p in parts]) for parts in layers]) for i in range(2))
    return Quantised(values, scales)


def _remembered(context: Fp8Cache | None, layer: int, part: int, new: Tensor, weight: Tensor | None) -> Quantised:
    if context is None:
        return quantise(new)
    before = context[layer][part]
    kept = context.frames(layer, part, len(before) // CONTEXT_SLOTS * REFERENCE.stop)
    values, scale = quantise(remember(before, new, weight)[len(kept.values) :])
    return Quantised(torch.cat((kept.values, values)), torch.cat((kept.scale, scale)))


def committed(
    form: CacheForm, name: str, context: Context | None, fresh: Sequence[KeyValue], weights: Sequence[Tensor | None]
) -> dict[str, Tensor]:
    """What a session keeps of a cache after a block, by name."""
    if form == "fp8":
        assert not isinstance(context, Tensor)
        values, scales = next_fp8_cache(context, fresh, weights)
        return {name: values, name + SCALES: scales}
    assert context is None or isinstance(context, Tensor)
    return {name: next_cache(context, fresh, weights)}
