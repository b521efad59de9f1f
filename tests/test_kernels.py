"""Each Triton kernel computes what its plain form computes, on random inputs of odd shapes; here in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from liveact_models.kernels import fused, plain
from liveact_models.parity import relative_error
from liveact_models.precision import Quantised, dequantise

BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
FP8_BOUND = 1e-2
SHAPES = [(1, 1, 2), (7, 3, 22), (13, 5, 18), (3, 4, 64)]
"""Tokens, heads, head dim."""


def inputs(shape: tuple[int, int, int], dtype: torch.dtype) -> dict[str, Any]:
    tokens, heads, head_dim = shape
    draw = torch.Generator().manual_seed(sum(shape))
    dim = heads * head_dim

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=draw)

    return {
        "x": (3 * random(tokens, dim) + 1).to(dtype), "out": random(tokens, dim).to(dtype),
        "weight": random(dim).to(dtype), "shift": random(dim), "scale": random(dim),
        "turn": torch.polar(torch.ones(tokens, 1, head_dim // 2), random(tokens, 1, head_dim // 2)),
        "frames": random(5, tokens, heads, head_dim).to(dtype), "taps": random(dim, 1, 5).to(dtype), "heads": heads,
    }  # fmt: skip


def normed_and_turned(form: Any, given: dict[str, Any], keep: bool) -> tuple[Tensor, ...]:
    turned = given["x"].new_empty(len(given["x"]), given["heads"], 2 * given["turn"].shape[-1])
    normed = form.norm_rotate(given["x"], given["weight"], given["turn"], turned, 1e-6, keep)
    assert (normed is None) == (not keep)
    return turned if normed is None else normed, turned


CASES: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "norm_rotate": lambda form, i: normed_and_turned(form, i, keep=True),
    "norm_rotate alone": lambda form, i: normed_and_turned(form, i, keep=False)[1:],
    "modulate": lambda form, i: form.modulate(i["x"], i["shift"], i["scale"], 1e-6),
    "modulate_fp8": lambda form, i: form.modulate_fp8(i["x"], i["shift"], i["scale"], 1e-6),
    "gated": lambda form, i: form.gated(i["x"], i["out"], i["shift"]),
    "compress": lambda form, i: form.compress(i["frames"], i["taps"]),
}


def tensors(found: Any) -> list[Tensor]:
    if isinstance(found, Quantised):
        return [dequantise(found, torch.float32)]
    return list(found) if isinstance(found, tuple) else [found]


def compared(device: str = "cpu") -> list[str]:
    """Every kernel on every shape and type; what is off by more than it may be."""
    from liveact_models.kernels import triton_forms

    wrong = []
    for name, call in CASES.items():
        for shape in SHAPES:
            for dtype, bound in BOUNDS.items():
                given = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs(shape, dtype).items()}
                with torch.inference_mode():
                    ours, theirs = tensors(call(triton_forms, given)), tensors(call(plain, given))
                for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
                    assert a.shape == b.shape
                    assert a.dtype == b.dtype
                    error = relative_error(a.float(), b.float())
                    print(f"{name} {shape} {dtype} [{index}]: {error:.1e}")
                    if not error <= (FP8_BOUND if name == "modulate_fp8" else bound):
                        wrong.append(f"{name} {shape} {dtype} [{index}]: {error:.1e}")
    return wrong


@pytest.mark.slow
@pytest.mark.skipif(not fused.INSTALLED, reason="triton is not installed")
def test_every_kernel_computes_its_plain_form_in_the_interpreter() -> None:
    # The interpreter must be chosen before Triton is imported.
    code = "import test_kernels; assert test_kernels.compared() == [], test_kernels.compared()"
    environment = {**os.environ, fused.INTERPRETED: "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=os.path.dirname(__file__), check=False)
    assert done.returncode == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_every_kernel_computes_its_plain_form_on_a_gpu() -> None:
    assert compared("cuda") == []


def test_the_plain_form_runs_on_a_cpu_and_where_gradients_are_on() -> None:
    assert not fused.uses_triton(torch.device("cpu")) or os.environ.get(fused.INTERPRETED) == "1"
    given = inputs((7, 3, 22), torch.float32)
    given["x"].requires_grad_()
    fused.modulate(given["x"], given["shift"], given["scale"], 1e-6).sum().backward()
    assert given["x"].grad is not None
