"""How far a session computed in one precision lies from the same session in another: by step, and as it goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from liveact_models.denoiser import BlockDenoiser
from liveact_models.memory import SCALES
from liveact_models.parity.report import relative_error
from liveact_models.precision.fp8 import FP8, quantise
from liveact_models.session import SessionState

STEP_BLOCK = 2
"""The first block whose context is compressed memory."""

Open = Callable[[BlockDenoiser], SessionState]
Audio = Callable[[int], Tensor]
"""A block's features [frames + 4, layers, dim]."""


@dataclass(frozen=True)
class Recording:
    """A session as one denoiser makes it."""

    latents: list[Tensor]
    """By block, each [16, 6 or 8, h, w]."""
    before: SessionState
    """The session before block `STEP_BLOCK`, which other denoisers go on from."""
    steps: list[Tensor]
    """The latents of that block after each diffusion step."""


@dataclass(frozen=True)
class Distance:
    """Relative errors ||ours - theirs|| / ||theirs|| of latents."""

    steps: tuple[float, ...]
    """After each step of block 2, from the same session and memory."""
    blocks: tuple[float, ...]
    """Of every block of a session that went its own way from the first."""


def record(denoiser: BlockDenoiser, start: Open, audio: Audio, blocks: int) -> Recording:
    """So many blocks, at least three. Raises `ValueError` for fewer."""
    if blocks <= STEP_BLOCK:
        raise ValueError(f"{blocks} blocks: accepted are at least {STEP_BLOCK + 1}")
    state, latents, before = start(denoiser), [], None
    steps: list[Tensor] = []
    for block in range(blocks):
        if block == STEP_BLOCK:
            before = dataclasses.replace(state)
            steps = _steps(denoiser, dataclasses.replace(state), audio(block))
        latents.append(denoiser.denoise(state, block, audio(block)))
    assert before is not None
    return Recording(latents, before, steps)


def distance(denoiser: BlockDenoiser, recorded: Recording, start: Open, audio: Audio) -> Distance:
    """Of this denoiser's session from the recorded one."""
    memory = kept_as(recorded.before.memory, denoiser.cache_dtype)
    same = dataclasses.replace(recorded.before, memory=memory, conditioning=None)
    steps = _steps(denoiser, same, audio(STEP_BLOCK))
    state = start(denoiser)
    blocks = [denoiser.denoise(state, block, audio(block)) for block in range(len(recorded.latents))]
    return Distance(
        tuple(relative_error(ours, theirs) for ours, theirs in zip(steps, recorded.steps, strict=True)),
        tuple(relative_error(ours, theirs) for ours, theirs in zip(blocks, recorded.latents, strict=True)),
    )


def kept_as(memory: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """A session's memory in another type, rounded once; it must not be in fp8."""
    if dtype != FP8:
        return {name: tensor.to(dtype) for name, tensor in memory.items()}
    quantised = {name: quantise(tensor) for name, tensor in memory.items()}
    values = {name: parts.values for name, parts in quantised.items()}
    return values | {name + SCALES: parts.scale for name, parts in quantised.items()}


def _steps(denoiser: BlockDenoiser, state: SessionState, audio: Tensor) -> list[Tensor]:
    """The latents after each step of the session's next block."""
    seen: list[Tensor] = []
    hook = denoiser.transformer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        last = denoiser.denoise(state, state.block, audio)
    finally:
        hook.remove()
    return [*seen[1:], last]
