"""What a device can do at best, measured on itself: the ceilings that figures of a model are compared with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from liveact_models.precision.fp8 import FP8

REPEATS = 5
MATRIX = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the product that is timed: large enough that starting it costs nothing."""
COPIED_BYTES = {"cpu": 2**28, "cuda": 2**31}
"""Far more than caches hold."""


@dataclass(frozen=True)
class Ceilings:
    """The most a device reached."""

    tflop_per_s: float
    """Of a large matrix product of that type, a multiply-add counted as two."""
    gb_per_s: float
    """10^9 bytes a second, read and written, of a large copy."""


def seconds_of(device: torch.device, work: Callable[[], object]) -> float:
    """How long the work takes: by CUDA events on a GPU, by the clock elsewhere."""
    if device.type != "cuda":
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()  # type: ignore[no-untyped-call]
    work()
    end.record()  # type: ignore[no-untyped-call]
    end.synchronize()  # type: ignore[no-untyped-call]
    return float(start.elapsed_time(end)) / 1000  # type: ignore[no-untyped-call]


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """The best of a few runs. `dtype`: of the matrices; e4m3 is measured through torch's scaled product, on a GPU that has it."""
    size = MATRIX[device.type]
    product = _product(device, dtype, size)
    moved = torch.empty(COPIED_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(moved)
    for work in (product, lambda: target.copy_(moved)):
        work()
    best = min(seconds_of(device, product) for _ in range(REPEATS))
    copy = min(seconds_of(device, lambda: target.copy_(moved)) for _ in range(REPEATS))
    return Ceilings(2 * size**3 / best / 1e12, 2 * moved.nbytes / copy / 1e9)


def _product(device: torch.device, dtype: torch.dtype, size: int) -> Callable[[], object]:
    a, b = (torch.randn(size, size, device=device).to(torch.bfloat16 if dtype == FP8 else dtype) for _ in range(2))
    if dtype != FP8 or device.type != "cuda":
        return lambda: a @ b
    ones = torch.ones(size, 1, device=device)
    x, y = a.to(FP8), b.to(FP8).t()
    return lambda: torch._scaled_mm(x, y, scale_a=ones, scale_b=ones.t(), out_dtype=torch.bfloat16)
