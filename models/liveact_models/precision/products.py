"""What multiplies fp8 matrices: Transformer Engine where installed, torch's scaled product on a GPU that has it, else emulation.

A product is tried once on the device before it is taken, as attention is (`transformer/backends.py`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liveact_models.config import ConfigError
from liveact_models.precision.fp8 import Quantised
from liveact_models.precision.linear import Fp8Linear

CAPABILITY = (8, 9)
"""Of the first CUDA devices that multiply e4m3."""
TRIAL_ERROR = 0.1
"""Relative, of a trial against float32: rounding two matrices to e4m3 is off by about 0.04."""
ROWS = 16
"""Transformer Engine takes rows in multiples of this."""

Multiply = Callable[[Quantised, Quantised, Tensor | None, torch.dtype], Tensor]
"""(x [rows, in], weight [out, in], bias [out] or None, type of the output) -> [rows, out]."""


def emulated(x: Quantised, weight: Quantised, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The same function anywhere: e4m3 multiplied in float32, where products are exact, then scaled and rounded once."""
    out = x.values.float() @ weight.values.float().T
    out = out * x.scale * weight.scale.T
    return (out if bias is None else out + bias.float()).to(dtype)


def scaled_mm(x: Quantised, weight: Quantised, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """torch's product of scaled matrices; on CUDA what comes out is bfloat16 before the bias."""
    out_dtype = torch.bfloat16 if x.values.is_cuda else dtype
    out = torch._scaled_mm(
        x.values, weight.values.t(), scale_a=x.scale, scale_b=weight.scale.t(), out_dtype=out_dtype
    )  # fmt: skip
    return (out if bias is None else out + bias).to(dtype)


class EngineLinear(nn.Module):
    """A layer of Transformer Engine. It scales whole tensors, not tokens: faster to quantise, a little less exact."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        engine: Any = importlib.import_module("transformer_engine.pytorch")
        self._autocast = engine.fp8_autocast
        self._recipe = importlib.import_module("transformer_engine.common.recipe").Float8CurrentScaling()
        with engine.fp8_model_init(enabled=True, recipe=self._recipe):
            self.inner = engine.Linear(
                linear.in_features, linear.out_features, bias=linear.bias is not None,
                params_dtype=linear.weight.dtype, device=linear.weight.device,
            )  # fmt: skip
        with torch.no_grad():
            self.inner.weight.copy_(linear.weight)
            if linear.bias is not None:
                self.inner.bias.copy_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        padded = F.pad(rows, (0, 0, 0, -len(rows) % ROWS))
        with self._autocast(enabled=True, fp8_recipe=self._recipe):
            out = self.inner(padded)
        return out[: len(rows)].unflatten(0, x.shape[:-1])


@dataclass(frozen=True)
class Product:
    """One way to compute a linear layer in fp8."""

    name: str
    multiply: Multiply | None = None
    """None: the layer is Transformer Engine's own."""
    cuda: bool = False

    def __call__(self, x: Quantised, weight: Quantised, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        assert self.multiply is not None
        return self.multiply(x, weight, bias, dtype)

    def build(self, linear: nn.Linear) -> nn.Module:
        """The layer in fp8."""
        return EngineLinear(linear) if self.multiply is None else Fp8Linear(linear, self)

    def problem(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why it cannot serve there; None where it can, which is tried."""
        if self.cuda and device.type != "cuda":
            return "needs a CUDA device"
        if device.type == "cuda" and self.name != "emulated":
            found = torch.cuda.get_device_capability(device)
            if found < CAPABILITY:
                return f"needs compute capability 8.9, the device has {found[0]}.{found[1]}"
        try:
            return _trial(self, device, dtype)
        except ModuleNotFoundError as error:
            return f"not installed: no module {error.name}"
        except (ImportError, OSError, RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
            return f"does not run here: {(str(error).splitlines() or [type(error).__name__])[0]}"


def _trial(product: Product, device: torch.device, dtype: torch.dtype) -> str | None:
    draw = torch.Generator().manual_seed(0)
    linear = nn.Linear(64, 48)
    x = torch.randn(17, 64, generator=draw)
    with torch.inference_mode():
        linear.weight.copy_(torch.randn(48, 64, generator=draw))
        expected = linear(x)
        found = product.build(linear.to(device, dtype))(x.to(device, dtype)).float().cpu()
    error = float((found - expected).norm() / expected.norm())
    return None if error <= TRIAL_ERROR else f"is off by {error:.1e} in a trial"


PRODUCTS: dict[str, Product] = {
    product.name: product
    for product in (
        Product("transformer-engine", None, cuda=True),
        Product("scaled-mm", scaled_mm),
        Product("emulated", emulated),
    )
}


@dataclass(frozen=True)
class ProductChoice:
    """The product that serves a model, and why none before it."""

    product: Product
    passed_over: dict[str, str]

    def describe(self) -> str:
        """One line for logs and people."""
        others = "; ".join(f"{name}: {problem}" for name, problem in self.passed_over.items())
        return self.product.name + (f" ({others})" if others else "")


def choose_product(device: torch.device, dtype: torch.dtype) -> ProductChoice:
    """The first that runs; on a CPU the emulation, which is faster there than torch's product.

    Raises `ConfigError` where none does.
    """
    problems: dict[str, str] = {}
    for name, product in PRODUCTS.items():
        problem = (
            product.problem(device, dtype) if device.type == "cuda" or name == "emulated" else "needs a CUDA device"
        )
        if problem is None:
            return ProductChoice(product, problems)
        problems[name] = problem
    raise ConfigError(f"fp8: nothing multiplies it on {device} ({problems})")
