"""e4m3 numbers with a float32 scale for every row: of activations a token, of weights an output channel, of the memory a head."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
"""Largest e4m3 number. Its steps are an eighth of the power of two below, so rounding is off by a sixteenth at most."""
SCALE = torch.float32
LEAST_SCALE = torch.finfo(SCALE).tiny
"""A row of zeros has a scale too."""


class Quantised(NamedTuple):
    """values * scale: e4m3 [..., n] and float32 [..., 1]."""

    values: Tensor
    scale: Tensor


def quantise(x: Tensor) -> Quantised:
    """Rows [..., n] of any floating type; the largest number of each becomes 448.

    An error is at most a sixteenth of the number, or 2^-10 / 448 of its row's largest where that is more.
    """
    wide = x.to(SCALE)
    scale = (wide.abs().amax(-1, keepdim=True) / FP8_MAX).clamp(min=LEAST_SCALE)
    return Quantised((wide / scale).to(FP8), scale)


def dequantise(quantised: Quantised, dtype: torch.dtype) -> Tensor:
    """[..., n] in that type, rounded once."""
    return (quantised.values.to(SCALE) * quantised.scale).to(dtype)
