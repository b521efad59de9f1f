"""Flow matching in three steps (model-facts, "Sampling"), and noise that is a function of (seed, block, step)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

NOISE_LEVELS = 1000.0
"""Diffusion time of pure noise."""

MAX_SEED = 2**64 - 1

NoiseSource = Callable[[int, int, tuple[int, ...]], Tensor]
"""(block, step, shape) -> standard normal float32 that enters the step: the block's start (step 0), then re-noising."""


def renoise(x: Tensor, velocity: Tensor, time: float, next_time: float, noise: Callable[[], Tensor]) -> Tensor:
    """x0 = x - v * t/1000, noised again to t': (1 - t'/1000) * x0 + (t'/1000) * noise. At t' = 0 no noise is drawn."""
    clean = x - velocity * (time / NOISE_LEVELS)
    if next_time == 0.0:
        return clean
    level = next_time / NOISE_LEVELS
    return (1.0 - level) * clean + level * noise().to(x.device)


def euler(x: Tensor, velocity: Tensor, time: float, next_time: float, noise: Callable[[], Tensor]) -> Tensor:
    """x - v * (t - t')/1000; draws no noise."""
    return x - velocity * ((time - next_time) / NOISE_LEVELS)


SAMPLERS = {"renoise": renoise, "euler": euler}


def check_seed(seed: int) -> int:
    """The seed; raises `ValueError` outside [0, 2^64)."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed {seed}: accepted are whole numbers from 0 to {MAX_SEED}")
    return seed


def seeded_noise(seed: int) -> NoiseSource:
    """Noise of a session: Philox, a counter-based generator, keyed by the seed and counted by (block, step).

    The same arguments give the same bytes in every process and for every device; no draw depends on an earlier one.
    """
    check_seed(seed)

    def noise(block: int, step: int, shape: tuple[int, ...]) -> Tensor:
        # The two low words of the counter run within a draw, the two high ones tell draws apart.
        generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, step, block]))
        return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))

    return noise
