"""Linear layers in fp8: W8A8, a scale for every token and every output channel; applied to a transformer from outside."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from liveact_models.precision.fp8 import Quantised, quantise

if TYPE_CHECKING:
    from liveact_models.precision.products import Product

MULTIPLE = 16
"""Both sides of a weight must be multiples of this for the hardware's fp8 products."""
SCALE_SUFFIX = "_scale"
"""In a file `blocks.0.ffn.0.weight` in e4m3 has its scales, float32 [out, 1], in `blocks.0.ffn.0.weight_scale`."""
LAYERS = "blocks."
"""Only a layer's linears: embeddings and head are a thousandth of the arithmetic and touch every token first or last."""


class Fp8Linear(nn.Module):
    """x W^T + b with x and W in e4m3: a float32 scale a token of x, and an output channel of W."""

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, product: Product) -> None:
        """Takes its weights from a layer of floating type, which also is the type of what comes out."""
        super().__init__()
        self.in_features, self.out_features, self.product = linear.in_features, linear.out_features, product
        self.dtype = linear.weight.dtype
        weight = quantise(linear.weight.detach())
        self.register_buffer("weight", weight.values)
        self.register_buffer("weight_scale", weight.scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor | Quantised) -> Tensor:
        """x [..., in], or what `quantise` makes of it -> [..., out]."""
        x = x if isinstance(x, Quantised) else quantise(x)
        rows = Quantised(x.values.flatten(0, -2), x.scale.flatten(0, -2))
        out = self.product(rows, Quantised(self.weight, self.weight_scale), self.bias, self.dtype)
        return out.unflatten(0, x.values.shape[:-1])

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, fp8"


def linears_of(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """The linears that may be computed in fp8, by name: those of the layers whose sides the hardware takes."""
    for name, module in model.named_modules():
        if not (name.startswith(LAYERS) and isinstance(module, nn.Linear)):
            continue
        if module.in_features % MULTIPLE == 0 and module.out_features % MULTIPLE == 0:
            yield name, module


def to_fp8(model: nn.Module, product: Product, kept: Collection[str] = ()) -> list[str]:
    """Replace the model's linears by fp8 ones, but for those in `kept`; gives the names of the replaced."""
    replaced = [(name, linear) for name, linear in linears_of(model) if name not in kept]
    with torch.no_grad():
        for name, linear in replaced:
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, product.build(linear))
    return [name for name, _ in replaced]


def all_fp8(*linears: nn.Module) -> bool:
    """Whether one quantised input serves all of them."""
    return all(isinstance(linear, Fp8Linear) for linear in linears)
