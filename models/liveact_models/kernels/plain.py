"""The kernels in plain torch: norms, modulation and gates in float32, rounded once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from liveact_models.precision.fp8 import Quantised, quantise


def norm_rotate(
    x: Tensor, weight: Tensor, turn: Tensor, turned: Tensor, eps: float, keep: bool = True
) -> Tensor | None:
    from liveact_models.transformer.rope import RopeTable, rotate

    normed = F.rms_norm(x, x.shape[-1:], weight, eps).view(turned.shape)
    rotate(normed, RopeTable(turn), turned)
    return normed if keep else None


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x.float(), x.shape[-1:], 1 + scale, shift, eps).to(x.dtype)


def modulate_fp8(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Quantised:
    return quantise(modulate(x, shift, scale, eps))


def gated(x: Tensor, out: Tensor, gate: Tensor) -> Tensor:
    return torch.addcmul(x.float(), gate, out.float()).to(x.dtype)


def compress(frames: Tensor, weight: Tensor) -> Tensor:
    channels = frames.flatten(2).flatten(0, 1).T
    compressed = F.conv1d(channels[None], weight, stride=weight.shape[-1], groups=len(weight))[0]
    return compressed.T.unflatten(-1, frames.shape[2:])[None]
