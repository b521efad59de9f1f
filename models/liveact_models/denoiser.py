"""From a session's value and a block of sound to the block's latents (model-facts, "Sampling", "Neighbor Forcing")."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator

import torch
from torch import Tensor

from liveact_models.block_run import BlockRun
from liveact_models.config import ModelConfig, SamplingConfig, check_size
from liveact_models.memory import CacheForm
from liveact_models.precision.fp8 import FP8
from liveact_models.sampler import NoiseSource, check_seed, seeded_noise
from liveact_models.session import SessionState, StateError
from liveact_models.timeline import block_feature_frames
from liveact_models.transformer import Conditioning, LiveActTransformer


class BlockDenoiser:
    """Denoises blocks of any number of sessions with one transformer; what they become stands in `SessionState`."""

    def __init__(
        self,
        transformer: LiveActTransformer,
        config: ModelConfig,
        sampling: SamplingConfig | None = None,
        heads: range | None = None,
        cache: CacheForm = "exact",
    ) -> None:
        """`sampling` is that of sessions opened here; a session adopted from elsewhere keeps its own.

        `heads`: those whose memory is kept here, where the transformer is one rank of several (`parallel.share`). `cache`: how
        memory is kept.
        """
        self.cache: CacheForm = cache
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
        self.check_fit(state)
        state.conditioning = self.transformer.condition(state.text, state.clip)
        return state

    @torch.inference_mode()
    def set_prompt(self, state: SessionState, text: Tensor, version: int) -> None:
        """Another prompt [tokens <= text_len, text_dim] from the next block on; a block under way keeps the old one.

        Raises `ValueError` for a text that does not fit; the state then stays as it was.
        """
        changed = dataclasses.replace(state, text=text.to(self.transformer.device).contiguous(), conditioning=None)
        self.check_fit(changed)
        conditioning = self.transformer.condition(changed.text, state.clip)
        state.text, state.prompt_version, state.conditioning = changed.text, version, conditioning

    def adopt(self, exported: bytes, step: int | None = None) -> SessionState:
        """The session of an export, ready to go on here; raises `StateError` as `SessionState.adopt` does.

        `step`: that whose memory is held here, where others' is elsewhere; None: all.
        """
        state = SessionState.adopt(exported, self.config)
        if self.heads is not None:
            state = state.part(self.heads)
        if step is not None:
            state = state.at_step(step)
        state = state.to(self.transformer.device)
        misfit = self._misfit(state)
        if misfit:
            raise StateError("STATE_TENSOR", misfit)
        return state

    @property
    def cache_dtype(self) -> torch.dtype:
        """The type of the sessions' memory."""
        return FP8 if self.cache == "fp8" else self.transformer.dtype

    def denoise(self, state: SessionState, block: int, audio: Tensor, noise: NoiseSource | None = None) -> Tensor:
        """All steps of one block: see `steps`. Returns the latents [16, 6 or 8, height / 8, width / 8] in float32."""
        steps = self.steps(state, block, audio, noise)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                return done.value

    @torch.inference_mode()
    def step(
        self, state: SessionState, number: int, audio: Tensor, latent: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One diffusion step of the session's next block, of whose memory the state may hold this step's alone.

        Args:
            state: stays as it is; of another step's device (`SessionState.at_step`) it is refused.
            audio: features of the block, as `steps` takes them.
            latent: what the step before gave, [16, 6 or 8, height / 8, width / 8] in float32; None at step 0.

        Returns the next latent, and this step's caches as they are after the block.
        """
        if state.step not in (None, number):
            raise ValueError(f"step {number}: the session's memory here is that of step {state.step}")
        self.check_audio(state.block, audio)
        run = BlockRun(
            self.transformer, state, self._conditioning(state), audio, seeded_noise(state.seed), self.cache
        )  # fmt: skip
        return run.step(number, run.start() if latent is None else latent), run.memory

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
        self.check_audio(block, audio)
        self.check_fit(state)
        conditioning = self._conditioning(state)
        noise = noise or seeded_noise(state.seed)
        return self._steps(BlockRun(self.transformer, state, conditioning, audio, noise, self.cache))

    @torch.inference_mode()
    def _steps(self, run: BlockRun) -> Generator[int, None, Tensor]:
        latent = run.start()
        for number in range(run.state.sampling.num_steps):
            latent = run.step(number, latent)
            yield number
        if run.state.sampling.context == "clean":
            run.remember_clean(latent)
        if run.state.block != run.block:
            raise RuntimeError(
                f"block {run.block} was denoised twice: the session's next block is already {run.state.block}"
            )
        run.state.memory, run.state.block = run.memory, run.block + 1
        return latent

    def check_audio(self, block: int, audio: Tensor) -> None:
        """Raises `ValueError` for features that are not those of a block; the message says what they are to be."""
        model = self.config.transformer
        rows = (len(block_feature_frames(block)), model.audio_blocks, model.audio_channels)
        if tuple(audio.shape) != rows:
            raise ValueError(f"audio of shape {tuple(audio.shape)}: block {block} takes {rows}")

    def _conditioning(self, state: SessionState) -> Conditioning:
        if state.conditioning is None:
            state.conditioning = self.transformer.condition(state.text, state.clip)
        return state.conditioning

    def check_fit(self, state: SessionState) -> None:
        """Raises `ValueError` for a session that this model does not continue; the message says why."""
        misfit = self._misfit(state)
        if misfit:
            raise ValueError(misfit)

    def _misfit(self, state: SessionState) -> str | None:
        if state.heads != self.heads:
            return f"the session's heads are {state.heads}; here are {self.heads}"
        misfit = state.misfit(self.config)
        if misfit is None and state.memory:
            found = state.memory_dtype
            if found != self.cache_dtype:
                return f"the session's memory is {found}; this model continues {self.cache_dtype}"
        return misfit
