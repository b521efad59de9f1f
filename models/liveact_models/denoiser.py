"""From a session's value and a block of sound to the block's latents (model-facts, "Sampling", "Neighbor Forcing")."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from liveact_models.config import ModelConfig, SamplingConfig, check_size
from liveact_models.memory import CLEAN_CACHE, CLEAN_NULL_CACHE, next_cache, null_cache, step_cache
from liveact_models.sampler import SAMPLERS, NoiseSource, check_seed, seeded_noise
from liveact_models.session import SessionState, StateError
from liveact_models.timeline import AUDIO_REACH, CONTEXT_SLOTS, block_frames, block_slots
from liveact_models.transformer import Conditioning, KeyValue, LiveActTransformer, gather_audio_windows

MASK_CHANNELS = 4


class BlockDenoiser:
    """Denoises blocks of any number of sessions with one transformer; what they become stands in `SessionState`."""

    def __init__(
        self,
        transformer: LiveActTransformer,
        config: ModelConfig,
        sampling: SamplingConfig | None = None,
        heads: range | None = None,
    ) -> None:
        """`sampling` is that of sessions opened here; a session adopted from elsewhere keeps its own.

        `heads`: those whose memory is kept here, where the transformer is one rank of several (`parallel.share`).
        """
        self.transformer = transformer.eval()
        self.heads = heads
        self.config = config
        self.sampling = sampling or config.sampling

    @torch.inference_mode()
    def open(
        self, *, width: int, height: int, fps: int, seed: int, text: Tensor, clip: Tensor, reference: Tensor
    ) -> SessionState:
        """A session before its first block.

        Args:
            width, height: of the picture, in pixels.
            fps: video frames a second; kept with the session, nothing here depends on it.
            seed: of all noise, from 0 to 2^64 - 1.
            text: text embedding [tokens <= text_len, text_dim].
            clip: CLIP tokens [clip_tokens, clip_dim].
            reference: VAE latents of the portrait and zero frames [16, 14, height / 8, width / 8].

        Raises:
            ConfigError: a size that the preset does not render.
            ValueError: a seed or a tensor that does not fit; the message says what does.
        """
        check_size(self.config, width, height)
        device = self.transformer.device
        state = SessionState(
            block=0,
            seed=check_seed(seed),
            width=width,
            height=height,
            fps=fps,
            prompt_version=0,
            preset=self.config.name,
            fingerprint=self.config.fingerprint(),
            sampling=self.sampling,
            # Contiguous, as an adopted copy is: a kernel's last bit may depend on strides.
            text=text.to(device).contiguous(),
            clip=clip.to(device).contiguous(),
            reference=reference.to(device).contiguous(),
            heads=self.heads,
        )
        self._check_fit(state)
        state.conditioning = self.transformer.condition(state.text, state.clip)
        return state

    @torch.inference_mode()
    def set_prompt(self, state: SessionState, text: Tensor, version: int) -> None:
        """Another prompt [tokens <= text_len, text_dim] from the next block on; a block under way keeps the old one.

        Raises `ValueError` for a text that does not fit; the state then stays as it was.
        """
        changed = dataclasses.replace(state, text=text.to(self.transformer.device).contiguous(), conditioning=None)
        self._check_fit(changed)
        conditioning = self.transformer.condition(changed.text, state.clip)
        state.text, state.prompt_version, state.conditioning = changed.text, version, conditioning

    def adopt(self, exported: bytes) -> SessionState:
        """The session of an export, ready to go on here; raises `StateError` as `SessionState.adopt` does."""
        state = SessionState.adopt(exported, self.config)
        if self.heads is not None:
            state = state.part(self.heads)
        state = state.to(self.transformer.device)
        misfit = self._misfit(state)
        if misfit:
            raise StateError("STATE_TENSOR", misfit)
        return state

    def denoise(self, state: SessionState, block: int, audio: Tensor, noise: NoiseSource | None = None) -> Tensor:
        """All steps of one block: see `steps`. Returns the latents [16, 6 or 8, height / 8, width / 8] in float32."""
        steps = self.steps(state, block, audio, noise)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                return done.value

    @torch.inference_mode()
    def steps(
        self, state: SessionState, block: int, audio: Tensor, noise: NoiseSource | None = None
    ) -> Generator[int, None, Tensor]:
        """Denoise one block a diffusion step at a time, so that a scheduler can take turns between sessions.

        Yields the step just done; the resumption after the last one commits the block to the state and returns its
        latents. Until then the state is untouched: a block given up, or cut short by an error, can be denoised again
        with the same outcome.

        Args:
            state: of the session; its `block` is the one denoised.
            block: the block that the caller means.
            audio: features of the video frames [start - 2, stop + 2) of the block: [frames + 4, layers, dim].
            noise: in place of the session's own, for comparison with recorded noise.

        Raises:
            ValueError: at the call, when block, audio or state do not fit; the message says what does.
            RuntimeError: at commit, when the state has moved on meanwhile.
        """
        if block != state.block:
            raise ValueError(f"block {block}: the session's next block is {state.block}")
        model = self.config.transformer
        rows = (len(block_frames(block)) + 2 * AUDIO_REACH, model.audio_blocks, model.audio_channels)
        if tuple(audio.shape) != rows:
            raise ValueError(f"audio of shape {tuple(audio.shape)}: block {block} takes {rows}")
        self._check_fit(state)
        conditioning = self._conditioning(state)
        return _BlockRun(self.transformer, state, conditioning, audio, noise or seeded_noise(state.seed)).steps()

    def _conditioning(self, state: SessionState) -> Conditioning:
        if state.conditioning is None:
            state.conditioning = self.transformer.condition(state.text, state.clip)
        return state.conditioning

    def _check_fit(self, state: SessionState) -> None:
        misfit = self._misfit(state)
        if misfit:
            raise ValueError(misfit)

    def _misfit(self, state: SessionState) -> str | None:
        if state.heads != self.heads:
            return f"the session's heads are {state.heads}; here are {self.heads}"
        misfit = state.misfit(self.config)
        if misfit is None and state.memory:
            found = next(iter(state.memory.values())).dtype
            if found != self.transformer.dtype:
                return f"the session's memory is {found}; this model continues {self.transformer.dtype}"
        return misfit


class _BlockRun:
    """One block under way: it reads the session as it was at the start and gathers what the session becomes."""

    def __init__(
        self,
        transformer: LiveActTransformer,
        state: SessionState,
        conditioning: Conditioning,
        audio: Tensor,
        noise: NoiseSource,
    ) -> None:
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
        self.context = state.memory
        self.memory: dict[str, Tensor] = {}

    @torch.inference_mode()
    def steps(self) -> Generator[int, None, Tensor]:
        sampling, block = self.state.sampling, self.block
        advance = SAMPLERS[sampling.sampler]
        shape = (self.reference.shape[0] - MASK_CHANNELS, *self.reference.shape[1:])
        latent = self.noise(block, 0, shape).to(self.transformer.device)
        for step, (time, next_time) in enumerate(pairwise((*sampling.timesteps, 0.0))):
            skip_audio = step in sampling.skip_audio_steps
            velocity = self._predict(step_cache(step), latent, time, None if skip_audio else self.heard)
            if sampling.guided and not skip_audio:
                null = self._predict(null_cache(step), latent, time, self.silence)
                velocity = null + sampling.audio_guidance * (velocity - null)
            latent = advance(latent, velocity, time, next_time, partial(self.noise, block, step + 1, shape))
            yield step
        if sampling.context == "clean":
            self._remember_clean(latent)
        if self.state.block != block:
            raise RuntimeError(
                f"block {block} was denoised twice: the session's next block is already {self.state.block}"
            )
        self.state.memory, self.state.block = self.memory, block + 1
        return latent

    def _predict(self, cache: str, latent: Tensor, time: float, audio: Tensor | None) -> Tensor:
        """The velocity [16, f, h, w], with the keys and values that earlier frames had at this same step as context."""
        if self.state.sampling.context == "clean":
            clean = CLEAN_NULL_CACHE if cache.endswith(".null") else CLEAN_CACHE
            return self._forward(clean, latent, time, audio)[0]
        velocity, fresh = self._forward(cache, latent, time, audio)
        self.memory[cache] = next_cache(self.context.get(cache), fresh, self.weights)
        return velocity

    def _remember_clean(self, latent: Tensor) -> None:
        """One more pass over the finished block at time 0: its keys and values are every step's context."""
        told = {CLEAN_CACHE: self.heard, **({CLEAN_NULL_CACHE: self.silence} if self.state.sampling.guided else {})}
        for cache, audio in told.items():
            _, fresh = self._forward(cache, latent, 0.0, audio)
            self.memory[cache] = next_cache(self.context.get(cache), fresh, self.weights)

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
