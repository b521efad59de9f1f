"""Random draws that are a function of a key, so that a step draws the same whenever, and wherever, it is computed."""

from __future__ import annotations

import random

import numpy as np
import torch


def rng(*key: int) -> np.random.Generator:
    """A numpy generator for this key of non-negative integers, as `rng(recipe.seed, step, sample)`."""
    return np.random.default_rng(_sequence(key))


def generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for this key. The same key draws other numbers on another kind of device."""
    return torch.Generator(device).manual_seed(_number(key))


def seed_all(*key: int) -> None:
    """Set the global generators of Python, numpy and torch (every device) from this key: dropout draws from them."""
    number = _number(key)
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)


def _number(key: tuple[int, ...]) -> int:
    return int(_sequence(key).generate_state(1, np.uint64)[0]) >> 1


def _sequence(key: tuple[int, ...]) -> np.random.SeedSequence:
    # The length goes in because numpy takes (1, 2) and (1, 2, 0) for the same seed.
    return np.random.SeedSequence((len(key), *key))
