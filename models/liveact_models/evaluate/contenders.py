"""Contenders: whatever makes a video of a clip, so that the model, its parts and the truth are measured alike."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from liveact_models.config import SamplingConfig
from liveact_models.denoiser import BlockDenoiser
from liveact_models.pipeline import Pipeline
from liveact_models.timeline import FRAMES_PER_LATENT, block_frames, blocks_for_frames
from liveact_models.vae import to_rgb
from liveact_models.world.clip import FPS, RATE, Clip

if TYPE_CHECKING:
    from liveact_models.world.voices import Utterance

Frames = NDArray[np.uint8]
"""Pictures [T, H, W, 3]."""


class Contender(Protocol):
    """Makes the video of a clip from its portrait, sound and prompts."""

    @property
    def name(self) -> str: ...

    def perform(self, clip: Clip) -> Iterator[Frames]:
        """The video's frames from the first on, a block of the timeline at a time, at least as many as the clip has."""
        ...


def video(contender: Contender, clip: Clip) -> Frames:
    """The whole video [clip.length, H, W, 3]."""
    return np.concatenate(list(contender.perform(clip)))[: clip.length]


class Rendered:
    """The truth: what the world itself draws."""

    name = "rendered truth"

    def perform(self, clip: Clip) -> Iterator[Frames]:
        for block in range(blocks_for_frames(clip.length)):
            frames = block_frames(block)
            yield clip.frames(frames.start, min(frames.stop, clip.length))


class Autoencoder:
    """The truth through the VAE and back: the best that any transformer on these latents can show."""

    name = "autoencoder alone"

    def __init__(self, pipeline: Pipeline) -> None:
        self._vae, self._decoder = pipeline.vae, pipeline.vae_decoder
        self._device = pipeline.device

    def perform(self, clip: Clip) -> Iterator[Frames]:
        frames = clip.frames()
        missing = -(len(frames) - 1) % FRAMES_PER_LATENT
        frames = np.concatenate((frames, np.repeat(frames[-1:], missing, axis=0)))
        latents = self._vae.encode(torch.from_numpy(to_model(frames)).to(self._device))
        for part in self._decoder.decode_stream(latents, self._decoder.new_cache()):
            yield to_rgb(part).cpu().numpy()


class Model:
    """The model as it is served: block by block, hearing no more than the block needs, prompts changed between blocks."""

    def __init__(self, name: str, pipeline: Pipeline, sampling: SamplingConfig | None = None, seed: int = 0) -> None:
        """`sampling` in place of the pipeline's own; `seed` is added to each clip's."""
        self.name = name
        self._pipeline = pipeline if sampling is None else resampled(pipeline, sampling)
        self._seed = seed

    def perform(self, clip: Clip) -> Iterator[Frames]:
        portrait = to_model(clip.portrait()[None])[:, 0]
        cues = clip.prompts
        performance = self._pipeline.start(portrait, fps=FPS, seed=self._seed + clip.seed, prompt=cues[0][1], rate=RATE)
        asked = 0
        for block in range(blocks_for_frames(clip.length)):
            due = max(
                number for number, (frame, _) in enumerate(cues) if number == 0 or frame <= block_frames(block).start
            )
            if due != asked:
                performance.update(cues[due][1])
                asked = due
            performance.hear(clip.samples[performance.heard :][: performance.missing()], RATE)
            yield performance.next_block().frames


class WrongVoice:
    """Another contender that hears somebody else: what chance and habit alone would score."""

    def __init__(self, contender: Contender, utterances: Mapping[int, Utterance]) -> None:
        """`utterances`: by a clip's seed what is heard in its stead."""
        self.name = f"{contender.name}, wrong voice"
        self._contender = contender
        self._utterances = utterances

    def perform(self, clip: Clip) -> Iterator[Frames]:
        return self._contender.perform(dataclasses.replace(clip, utterance=self._utterances[clip.seed]))


def resampled(pipeline: Pipeline, sampling: SamplingConfig) -> Pipeline:
    """The same modules, whose sessions are sampled another way; nothing is loaded twice."""
    other = copy.copy(pipeline)
    other.denoiser = BlockDenoiser(pipeline.denoiser.transformer, pipeline.config, sampling)
    return other


def to_model(frames: Frames) -> NDArray[np.float32]:
    """Pictures [T, H, W, 3] -> video [3, T, H, W] in [-1, 1]."""
    return np.ascontiguousarray(frames.transpose(3, 0, 1, 2).astype(np.float32) / np.float32(127.5) - np.float32(1))


def many_steps(sampling: SamplingConfig, steps: int, shift: float = 5.0) -> SamplingConfig:
    """The sampling of a teacher: `steps` Euler steps over the whole range of diffusion times.

    t_i = 1000 s u / (1 + (s - 1) u) at u = 1 - i / steps; with shift 5 and four steps the first three are those of the
    three-step sampler (model-facts, "Sampling"). Audio is skipped at the first step as it is there.
    """
    if steps < 1:
        raise ValueError(f"{steps} steps: accepted are 1 and more")
    times = 1 - np.arange(steps) / steps
    return dataclasses.replace(
        sampling, timesteps=tuple(float(t) for t in 1000 * shift * times / (1 + (shift - 1) * times)), sampler="euler"
    )
