"""How tensors travel between ranks: bit for bit, or in half or a quarter of the bytes as fp8."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
"""Largest e4m3 number. Its steps are an eighth of the power of two below, so rounding is off by a sixteenth at most."""
SCALE = torch.float32


class Wire(Protocol):
    """A tensor [..., head_dim] as bytes."""

    def size(self, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        """Bytes that such a tensor becomes."""

    def pack(self, tensor: Tensor) -> Tensor:
        """The tensor as uint8 [size]."""

    def unpack(self, packed: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The tensor of those bytes."""


class ExactWire:
    """The tensor's own bytes."""

    def size(self, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        return math.prod(shape) * dtype.itemsize

    def pack(self, tensor: Tensor) -> Tensor:
        return _bytes(tensor)

    def unpack(self, packed: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return _typed(packed, dtype).view(shape)


class Fp8Wire:
    """e4m3 with a float32 scale for every token and head, so that what arrives does not depend on who shares heads how.

    What a rank keeps takes this way too. The error is at most a sixteenth of a number, or 2^-10 / 448 of its head's largest
    where that is more.
    """

    def size(self, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        return math.prod(shape[:-1]) * (SCALE.itemsize + shape[-1] * FP8.itemsize)

    def pack(self, tensor: Tensor) -> Tensor:
        values = tensor.to(SCALE)
        # A head of zeros has a scale too.
        scale = (values.abs().amax(-1, keepdim=True) / FP8_MAX).clamp(min=torch.finfo(SCALE).tiny)
        return torch.cat((_bytes(scale), _bytes((values / scale).to(FP8))))

    def unpack(self, packed: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        rows = math.prod(shape[:-1])
        scales, values = packed.split([rows * SCALE.itemsize, rows * shape[-1] * FP8.itemsize])
        scale = _typed(scales, SCALE).view(*shape[:-1], 1)
        return (_typed(values, FP8).view(shape).to(SCALE) * scale).to(dtype)


WIRES: dict[str, Wire] = {"exact": ExactWire(), "fp8": Fp8Wire()}


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def _typed(packed: Tensor, dtype: torch.dtype) -> Tensor:
    # A copy, which lies aligned to its type wherever the bytes lay.
    return packed.clone().view(dtype)
