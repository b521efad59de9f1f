"""Matrices in eight bits: e4m3 with a scale an output channel, which stands beside them as NAME_scale."""

from __future__ import annotations

import torch
from torch import Tensor

SCALE = "_scale"
"""`blocks.0.ffn.0.weight` in e4m3 has its scales, float32 [out], in `blocks.0.ffn.0.weight_scale`."""
FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[out, in] -> e4m3 [out, in] and scales, float32 [out]: weight = e4m3 * scale, each row using the whole range."""
    rows = weight.float()
    largest = rows.abs().amax(dim=1)
    scale = torch.where(largest > 0, largest / LARGEST, 1.0)
    return (rows / scale[:, None]).to(FP8), scale


def dequantise(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """e4m3 [out, in] and scales [out] -> [out, in] in `dtype`, rounded once."""
    return (weight.float() * scale.float().reshape(-1, 1)).to(dtype)
