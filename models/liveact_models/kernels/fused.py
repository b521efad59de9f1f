"""The kernels' one interface: shapes, and which form runs."""

from __future__ import annotations

import importlib.util
import os
from types import ModuleType

import torch
from torch import Tensor

from liveact_models.kernels import plain
from liveact_models.precision.fp8 import Quantised

INTERPRETED = "TRITON_INTERPRET"
"""Set to 1, Triton's interpreter runs the kernels on a CPU, for tests: thousands of times slower than the plain forms."""
INSTALLED = importlib.util.find_spec("triton") is not None


def uses_triton(device: torch.device) -> bool:
    """Whether the kernels run there."""
    return INSTALLED and (device.type == "cuda" or os.environ.get(INTERPRETED) == "1")


def norm_rotate(
    x: Tensor, weight: Tensor, turn: Tensor, turned: Tensor, eps: float, keep: bool = True
) -> Tensor | None:
    """RMSNorm over all heads, and RoPE of what it gives, into `turned` [tokens, heads, head_dim], which is contiguous.

    x [tokens, dim], `weight` [dim]; `turn` complex64 [tokens, 1, head_dim / 2], of these tokens' slots. Gives the normed
    [tokens, heads, head_dim], or None unless they are to `keep`.
    """
    return _form(x).norm_rotate(x, weight, turn, turned, eps, keep)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm without affine, then scale and shift: x [tokens, dim], shift and scale [dim] in float32."""
    return _form(x).modulate(x, shift, scale, eps)


def modulate_fp8(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Quantised:
    """`modulate`, rounded to x's type and quantised by token: what an fp8 linear multiplies."""
    return _form(x).modulate_fp8(x, shift, scale, eps)


def gated(x: Tensor, out: Tensor, gate: Tensor) -> Tensor:
    """x + gate * out: x and out [tokens, dim], gate [dim] in float32."""
    return _form(x).gated(x, out, gate)


def compress(frames: Tensor, weight: Tensor) -> Tensor:
    """Five frames of tokens into one: [5, tokens, heads, head_dim] -> [1, tokens, heads, head_dim].

    A depthwise convolution, kernel 5 and stride 5, over the flattened tokens: 5 consecutive ones (row-major) give one.
    `weight` is [dim, 1, 5] with dim = heads * head_dim (model-facts, "ConvKV memory").
    """
    return _form(frames).compress(frames, weight)


def _form(x: Tensor) -> ModuleType:
    if not uses_triton(x.device) or torch.is_grad_enabled():
        return plain
    from liveact_models.kernels import triton_forms

    return triton_forms
