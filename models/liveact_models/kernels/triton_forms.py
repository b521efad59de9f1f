"""The kernels in Triton: a program a row, which stays in registers between the passes that plain torch makes over memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from liveact_models.precision.fp8 import FP8, FP8_MAX, LEAST_SCALE, Quantised

_MAX = tl.constexpr(FP8_MAX)
_LEAST = tl.constexpr(LEAST_SCALE)
COLUMNS = 1024
"""Of a row, that one program of an element-wise kernel takes."""


@triton.jit
def _nearest(value, dropped: tl.constexpr):
    """float32 to the nearest with that many bits fewer, ties to even, as float32: the interpreter's casts only cut bits off."""
    bits = value.to(tl.int32, bitcast=True)
    bits += (1 << (dropped - 1)) - 1 + ((bits >> dropped) & 1)
    return ((bits >> dropped) << dropped).to(tl.float32, bitcast=True)


@triton.jit
def _rounded(value, dtype: tl.constexpr):
    if dtype == tl.bfloat16:
        value = _nearest(value, 16)
    return value.to(dtype)


@triton.jit
def _to_fp8(value, dtype: tl.constexpr):
    # Below 2^-6 the steps of e4m3 are 2^-9 throughout, as float32's are about 1.5 * 2^14.
    fine = (value + 24576.0) - 24576.0
    return tl.where(tl.abs(value) < 0.015625, fine, _nearest(value, 20)).to(dtype)


@triton.jit
def _norm_rotate(
    x, weight, turn, normed, turned, row_stride, dim, head_dim, eps, half: tl.constexpr, keep: tl.constexpr
):
    # Pairs of the head dim are turned together: even and odd columns are two vectors.
    row = tl.program_id(0).to(tl.int64)
    pair = tl.arange(0, half)
    there = 2 * pair < dim
    even = tl.load(x + row * row_stride + 2 * pair, there, 0.0).to(tl.float32)
    odd = tl.load(x + row * row_stride + 2 * pair + 1, there, 0.0).to(tl.float32)
    norm = 1.0 / tl.sqrt((tl.sum(even * even) + tl.sum(odd * odd)) / dim + eps)
    out: tl.constexpr = turned.dtype.element_ty
    # What is turned is what is kept: the normed value as it is rounded.
    even = _rounded(even * norm * tl.load(weight + 2 * pair, there, 0.0).to(tl.float32), out)
    odd = _rounded(odd * norm * tl.load(weight + 2 * pair + 1, there, 0.0).to(tl.float32), out)
    at = row * dim + 2 * pair
    if keep:
        tl.store(normed + at, even, there)
        tl.store(normed + at + 1, odd, there)
    even, odd = even.to(tl.float32), odd.to(tl.float32)
    angle = row * head_dim + (2 * pair) % head_dim
    cos, sin = tl.load(turn + angle, there, 0.0), tl.load(turn + angle + 1, there, 0.0)
    tl.store(turned + at, _rounded(even * cos - odd * sin, out), there)
    tl.store(turned + at + 1, _rounded(even * sin + odd * cos, out), there)


@triton.jit
def _modulated(x, shift, scale, row, row_stride, dim, eps, block: tl.constexpr):
    column = tl.arange(0, block)
    there = column < dim
    value = tl.load(x + row * row_stride + column, there, 0.0).to(tl.float32)
    off = tl.where(there, value - tl.sum(value) / dim, 0.0)
    off *= 1.0 / tl.sqrt(tl.sum(off * off) / dim + eps)
    out = off * (1.0 + tl.load(scale + column, there, 0.0)) + tl.load(shift + column, there, 0.0)
    return tl.where(there, out, 0.0), column, there


@triton.jit
def _modulate(x, shift, scale, out, row_stride, dim, eps, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    value, column, there = _modulated(x, shift, scale, row, row_stride, dim, eps, block)
    tl.store(out + row * dim + column, _rounded(value, out.dtype.element_ty), there)


@triton.jit
def _modulate_fp8(x, shift, scale, values, scales, row_stride, dim, eps, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    value, column, there = _modulated(x, shift, scale, row, row_stride, dim, eps, block)
    # As a layer that is not in fp8 would have been given it.
    value = _rounded(value, x.dtype.element_ty).to(tl.float32)
    size = tl.maximum(tl.max(tl.abs(value)) / _MAX, _LEAST)
    tl.store(scales + row, size)
    tl.store(values + row * dim + column, _to_fp8(value / size, values.dtype.element_ty), there)


@triton.jit
def _gated(x, out, gate, result, dim, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    there = column < dim
    at = row * dim + column
    value = tl.load(x + at, there, 0.0).to(tl.float32)
    value += tl.load(gate + column, there, 0.0) * tl.load(out + at, there, 0.0).to(tl.float32)
    tl.store(result + at, _rounded(value, result.dtype.element_ty), there)


@triton.jit
def _compress(frames, weight, result, dim, kernel: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    there = column < dim
    total = tl.zeros((block,), tl.float32)
    for tap in tl.static_range(kernel):
        factor = tl.load(weight + column * kernel + tap, there, 0.0).to(tl.float32)
        total += factor * tl.load(frames + (row * kernel + tap) * dim + column, there, 0.0).to(tl.float32)
    tl.store(result + row * dim + column, _rounded(total, result.dtype.element_ty), there)


def norm_rotate(
    x: Tensor, weight: Tensor, turn: Tensor, turned: Tensor, eps: float, keep: bool = True
) -> Tensor | None:
    rows, dim = x.shape
    x = x if x.stride(1) == 1 else x.contiguous()
    normed = torch.empty_like(turned) if keep else turned
    angles = torch.view_as_real(turn).contiguous()
    _norm_rotate[(rows,)](
        x, weight, angles, normed, turned, x.stride(0), dim, turned.shape[-1], eps, triton.next_power_of_2(dim // 2), keep
    )  # fmt: skip
    return normed if keep else None


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    rows, dim = x.shape
    x = x if x.stride(1) == 1 else x.contiguous()
    out = x.new_empty(rows, dim)
    _modulate[(rows,)](
        x, shift.contiguous(), scale.contiguous(), out, x.stride(0), dim, eps, triton.next_power_of_2(dim)
    )  # fmt: skip
    return out


def modulate_fp8(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Quantised:
    rows, dim = x.shape
    x = x if x.stride(1) == 1 else x.contiguous()
    found = Quantised(x.new_empty(rows, dim, dtype=FP8), x.new_empty(rows, 1, dtype=torch.float32))
    _modulate_fp8[(rows,)](
        x, shift.contiguous(), scale.contiguous(), found.values, found.scale, x.stride(0), dim, eps,
        triton.next_power_of_2(dim),
    )  # fmt: skip
    return found


def gated(x: Tensor, out: Tensor, gate: Tensor) -> Tensor:
    rows, dim = x.shape
    result = x.new_empty(rows, dim)
    block = min(COLUMNS, triton.next_power_of_2(dim))
    _gated[(rows, triton.cdiv(dim, block))](x.contiguous(), out.contiguous(), gate.contiguous(), result, dim, block)
    return result


def compress(frames: Tensor, weight: Tensor) -> Tensor:
    _, tokens, heads, head_dim = frames.shape
    dim, kernel = heads * head_dim, weight.shape[-1]
    result = frames.new_empty(1, tokens, heads, head_dim)
    block = min(COLUMNS, triton.next_power_of_2(dim))
    _compress[(tokens, triton.cdiv(dim, block))](frames.contiguous(), weight.contiguous(), result, dim, kernel, block)
    return result
