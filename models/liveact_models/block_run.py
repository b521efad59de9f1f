"""One block of a session under way, a diffusion step at a time (model-facts, "Sampling", "Neighbor Forcing")."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from liveact_models.memory import (
    CLEAN_CACHE,
    CLEAN_NULL_CACHE,
    SCALES,
    CacheForm,
    committed,
    null_cache,
    read_cache,
    step_cache,
)
from liveact_models.sampler import SAMPLERS, NoiseSource
from liveact_models.session import SessionState
from liveact_models.timeline import AUDIO_REACH, CONTEXT_SLOTS, block_slots
from liveact_models.transformer import Conditioning, KeyValue, LiveActTransformer, gather_audio_windows

MASK_CHANNELS = 4


class BlockRun:
    """One block under way: it reads the session as it was at the start and gathers what the session becomes."""

    def __init__(
        self,
        transformer: LiveActTransformer,
        state: SessionState,
        conditioning: Conditioning,
        audio: Tensor,
        noise: NoiseSource,
        form: CacheForm,
    ) -> None:
        """`audio`: features [frames + 4, layers, dim]; `form`: how memory is kept. All on the transformer's device."""
        self.form = form
        self.transformer = transformer
        self.state = state
        self.block = state.block
        self.conditioning = conditioning
        self.noise = noise
        self.reference = reference_condition(state.reference, state.block)
        windows = gather_audio_windows(audio, AUDIO_REACH, len(audio) - AUDIO_REACH)
        first_block = state.block == 0
        self.heard = transformer.audio_tokens(windows, first_block)
        guided = state.sampling.guided
        self.silence = transformer.audio_tokens(torch.zeros_like(windows), first_block) if guided else None
        self.weights = _compression(transformer, state.sampling.memory, state.heads)
        names = [name for name in state.memory if not name.endswith(SCALES)]
        self.context = {name: read_cache(state.memory, name, transformer.dtype) for name in names}
        self.memory: dict[str, Tensor] = {}

    def start(self) -> Tensor:
        """The noise that the block begins as, [16, f, h, w] in float32."""
        return self.noise(self.block, 0, self._shape).to(self.transformer.device)

    def step(self, number: int, latent: Tensor) -> Tensor:
        """One diffusion step of the latent; what it adds to the session's memory is in `memory` from then on."""
        sampling = self.state.sampling
        time, next_time = (*sampling.timesteps, 0.0)[number : number + 2]
        skip_audio = number in sampling.skip_audio_steps
        velocity = self._predict(step_cache(number), latent, time, None if skip_audio else self.heard)
        if sampling.guided and not skip_audio:
            null = self._predict(null_cache(number), latent, time, self.silence)
            velocity = null + sampling.audio_guidance * (velocity - null)
        fresh_noise = partial(self.noise, self.block, number + 1, self._shape)
        return SAMPLERS[sampling.sampler](latent, velocity, time, next_time, fresh_noise)

    def remember_clean(self, latent: Tensor) -> None:
        """One more pass over the finished block at time 0: its keys and values are every step's context."""
        told = {CLEAN_CACHE: self.heard, **({CLEAN_NULL_CACHE: self.silence} if self.state.sampling.guided else {})}
        for cache, audio in told.items():
            _, fresh = self._forward(cache, latent, 0.0, audio)
            self.memory |= committed(self.form, cache, self.context.get(cache), fresh, self.weights)

    @property
    def _shape(self) -> tuple[int, ...]:
        return (self.reference.shape[0] - MASK_CHANNELS, *self.reference.shape[1:])

    def _predict(self, cache: str, latent: Tensor, time: float, audio: Tensor | None) -> Tensor:
        """The velocity [16, f, h, w], with the keys and values that earlier frames had at this same step as context."""
        if self.state.sampling.context == "clean":
            clean = CLEAN_NULL_CACHE if cache.endswith(".null") else CLEAN_CACHE
            return self._forward(clean, latent, time, audio)[0]
        velocity, fresh = self._forward(cache, latent, time, audio)
        self.memory |= committed(self.form, cache, self.context.get(cache), fresh, self.weights)
        return velocity

    def _forward(self, cache: str, latent: Tensor, time: float, audio: Tensor | None) -> tuple[Tensor, list[KeyValue]]:
        context = self.context.get(cache)
        return self.transformer(
            latent, self.reference, time, self.conditioning, audio, context, block_slots(self.block)
        )


def _compression(transformer: LiveActTransformer, memory: str, heads: range | None) -> list[Tensor | None]:
    """Each layer's ConvKV weight; None where the memory is switched off. It is depthwise: `heads` need theirs alone."""
    learned = [layer.self_attn.memory_proj_k.weight for layer in transformer.layers]
    if heads is not None:
        width = transformer.config.head_dim
        learned = [weight[heads.start * width : heads.stop * width] for weight in learned]
    if memory == "none":
        return [None for _ in learned]
    return [torch.full_like(weight, 1 / weight.shape[-1]) if memory == "mean" else weight for weight in learned]


def reference_condition(reference: Tensor, block: int) -> Tensor:
    """The block's slots of [mask, reference]: latents [16, 14, h, w] -> [20, f, h, w].

    The mask is 1 for the first video frame only, whose 4 channels stand in slot 0 (model-facts, "Network").
    """
    mask = reference.new_zeros((MASK_CHANNELS, *reference.shape[1:]))
    mask[:, 0] = 1.0
    # Every later block takes the slots of the window's second part, however far the session is.
    slots = slice(0, CONTEXT_SLOTS) if block == 0 else slice(CONTEXT_SLOTS, None)
    return torch.cat((mask, reference))[:, slots]
