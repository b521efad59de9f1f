"""The diffusion steps in CUDA graphs: recorded once for a size and a step, replayed on buffers that stay where they are.

A step is some thousand kernels in a fixed order; replayed they start without Python and without a launch each. What changes from
call to call is copied into the buffers first, and only what did change: a session's prompt and portrait once, its context once a
step.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from liveact_models.memory import Context, Fp8Cache
from liveact_models.transformer import Conditioning, KeyValue, LiveActTransformer
from liveact_models.transformer.rope import RopeTable, rope_table

Prediction = tuple[Tensor, list[KeyValue]]
Work = Callable[[], Prediction]
Capture = Callable[[Work], tuple[Prediction, Callable[[], None]]]
"""Runs the work, and gives where its results stand and what makes them anew from the same inputs."""
WARM_UPS = 3
"""Runs before a capture: libraries choose their kernels and allocate their workspaces in them."""
SIZES = 2
"""Sizes of picture whose buffers are kept; each takes as much memory as a step's context."""


class CudaCapture:
    """Records work in CUDA graphs that share their memory: they are replayed one at a time, and results hold until the next."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, work: Work) -> tuple[Prediction, Callable[[], None]]:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # type: ignore[no-untyped-call]
            for _ in range(WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            results = work()
        # Capturing runs nothing: what stands there is made by the first replay.
        graph.replay()
        return results, graph.replay


def use_graphs(transformer: LiveActTransformer, capture: Capture) -> None:
    """Have the transformer's steps captured, each at its first call.

    What a call gives of keys and values holds until the next; the velocity is the caller's. One caller at a time.
    """
    transformer.forward = GraphedForward(transformer, capture)  # type: ignore[method-assign, assignment]


class GraphedForward:
    """In place of `LiveActTransformer.forward`, with its arguments and results."""

    def __init__(self, transformer: LiveActTransformer, capture: Capture) -> None:
        self._forward, self._capture = transformer.forward, capture
        self._head_dim, self._patch = transformer.config.head_dim, transformer.config.patch_size
        self._buffers: OrderedDict[tuple[Any, ...], _Buffers] = OrderedDict()
        self.captured = 0
        """Steps that were recorded."""

    def __call__(
        self,
        latent: Tensor,
        reference: Tensor,
        timestep: float,
        conditioning: Conditioning,
        audio: Tensor | None,
        context: Context | None,
        slots: range,
    ) -> Prediction:
        buffers = self._for(latent, reference, conditioning, context, slots)
        buffers.fill(latent, reference, conditioning, audio, context)
        step = (timestep, audio is not None)
        recorded = buffers.steps.get(step)
        if recorded is None:

            def work() -> Prediction:
                heard = None if audio is None else buffers.audio
                return self._forward(
                    buffers.latent, buffers.reference, timestep, buffers.conditioning, heard, buffers.context, slots
                )

            recorded = buffers.steps[step] = self._capture(work)
            self.captured += 1
        else:
            recorded[1]()
        (velocity, fresh), _ = recorded
        return velocity.clone(), fresh

    def _for(
        self, latent: Tensor, reference: Tensor, conditioning: Conditioning, context: Context | None, slots: range
    ) -> _Buffers:
        """The buffers of this size and place; the least used ones of another size go."""
        form = None if context is None else tuple((part.shape, part.dtype) for part in _parts(context))
        key = (tuple(latent.shape), form, slots)
        if key not in self._buffers:
            _, height, width = self._patch
            rope = rope_table(self._head_dim, latent.shape[2] // height, latent.shape[3] // width, latent.device)
            made = _Buffers(
                torch.empty_like(latent),
                torch.empty_like(reference),
                _like(conditioning),
                None,
                _like_context(context),
                rope,
            )
            self._buffers[key] = made
            # Block 0 of a size has buffers of its own, without a context.
            while len(self._buffers) > 2 * SIZES:
                self._buffers.popitem(last=False)
        self._buffers.move_to_end(key)
        return self._buffers[key]


@dataclass
class _Buffers:
    """What the steps of one size read."""

    latent: Tensor
    reference: Tensor
    conditioning: Conditioning
    audio: Tensor | None
    context: Context | None
    rope: RopeTable
    """Kept because what was recorded reads it, whatever a cache of tables forgets."""
    steps: dict[tuple[float, bool], tuple[Prediction, Callable[[], None]]] = field(default_factory=dict)
    _of: dict[str, weakref.ref[Any]] = field(default_factory=dict)
    """What stands in a buffer."""

    def fill(
        self,
        latent: Tensor,
        reference: Tensor,
        conditioning: Conditioning,
        audio: Tensor | None,
        context: Context | None,
    ) -> None:
        """Copy what is not there already."""
        self.latent.copy_(latent)
        if self._changed("reference", reference):
            self.reference.copy_(reference)
        if self._changed("conditioning", conditioning):
            for mine, theirs in zip(_tensors(self.conditioning), _tensors(conditioning), strict=True):
                mine.copy_(theirs)
        if audio is not None:
            if self.audio is None:
                self.audio = torch.empty_like(audio)
            if self._changed("audio", audio):
                self.audio.copy_(audio)
        if context is not None and self.context is not None and self._changed("context", context):
            for mine, theirs in zip(_parts(self.context), _parts(context), strict=True):
                mine.copy_(theirs)

    def _changed(self, name: str, value: Any) -> bool:
        """Whether another object stands there. Tensors are replaced, never written into (`SessionState`)."""
        known = self._of.get(name)
        if known is not None and known() is value:
            return False
        self._of[name] = weakref.ref(value)
        return True


def _parts(context: Context) -> tuple[Tensor, ...]:
    return tuple(context.parts) if isinstance(context, Fp8Cache) else (context,)


def _like_context(context: Context | None) -> Context | None:
    if isinstance(context, Fp8Cache):
        values, scale = (torch.empty_like(part) for part in context.parts)
        return Fp8Cache(values, scale, context.dtype)
    return None if context is None else torch.empty_like(context)


def _tensors(conditioning: Conditioning) -> Iterator[Tensor]:
    for layers in (conditioning.text, conditioning.image):
        for keys, values in layers:
            yield from (keys, values)


def _like(conditioning: Conditioning) -> Conditioning:
    def empty(layers: tuple[KeyValue, ...]) -> tuple[KeyValue, ...]:
        return tuple((torch.empty_like(keys), torch.empty_like(values)) for keys, values in layers)

    return Conditioning(empty(conditioning.text), empty(conditioning.image))
