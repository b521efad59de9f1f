"""Matrices in eight bits: e4m3 with a scale an output channel, which stands beside them as NAME_scale."""

from __future__ import annotations

import torch
from torch import Tensor

SCALE = "_scale"
"""`blocks.0.ffn.0.weight` in e4m3 has its scales, float32 [out, 1], in `blocks.0.ffn.0.weight_scale`."""
FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
MULTIPLE = 16
"""Both sides of a matrix must be multiples of this for the hardware's products."""


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[out, in] -> e4m3 [out, in] and scales, float32 [out, 1]: weight = e4m3 * scale, each row using the whole range."""
    rows = weight.float()
    scale = (rows.abs().amax(dim=1, keepdim=True) / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    return (rows / scale).to(FP8), scale


def dequantise(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """e4m3 [out, in] and scales [out, 1] -> [out, in] in `dtype`, rounded once."""
    return (weight.float() * scale).to(dtype)
