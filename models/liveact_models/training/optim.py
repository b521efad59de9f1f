"""Muon for the inner matrices, AdamW for everything else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that drives every singular value towards 1 (K. Jordan, "Muon", 2024)."""
SMALLEST_SIDE = 8
_MATRIX_LAYERS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d
)  # fmt: skip


class Muon(Optimizer):
    """Momentum whose step is orthogonalised (K. Jordan, "Muon: an optimizer for hidden layers", 2024).

    For matrices; a convolution's weight [out, in, ...] counts as [out, in * ...]. Weight decay is decoupled.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        iterations: int = 5,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "iterations": iterations}
        super().__init__(params, defaults)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim < 2:
                    raise ValueError(f"a parameter of shape {tuple(parameter.shape)} is no matrix: give it to AdamW")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step. Matrices of one shape are orthogonalised together, which is what makes it quick on a CPU."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[(parameter.shape[0], parameter.shape[1:].numel())].append(parameter)
            for shape, parameters in alike.items():
                self._step_alike(shape, parameters, group)
        return result

    def _step_alike(self, shape: tuple[int, ...], parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Parameters that are all `shape` [rows, columns] when seen as matrices."""
        buffers = []
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            buffers.append(state["momentum_buffer"])
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_lerp_(buffers, gradients, 1.0 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, buffers, group["momentum"])  # Nesterov
        steps = orthogonalised(torch.stack([step.reshape(shape) for step in ahead]), group["iterations"])
        scale = max(1.0, shape[0] / shape[1]) ** 0.5
        updates = [step.view_as(p).to(p.dtype) for step, p in zip(steps, parameters, strict=True)]
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1.0 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, updates, alpha=-group["lr"] * scale)


def orthogonalised(matrices: Tensor, iterations: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: singular values end between 0.7 and 1.2.

    matrices [N, rows, columns] -> bfloat16 of the same shape, by Newton-Schulz iterations in bfloat16.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(iterations):
        gram = x @ x.mT  # [N, side, side], side the shorter one
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x


def optimizers_for(
    module: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    *,
    adamw: Sequence[str] = (),
    adamw_lr: float | None = None,
    prefix: str = "",
) -> dict[str, Optimizer]:
    """{"muon": ..., "adamw": ...}, either left out where it has nothing to do; `prefix` goes before the names.

    Muon takes the weights of linear layers and ungrouped convolutions at least 8 wide both ways; `adamw` names
    parameters, by the beginning of their name, that AdamW takes all the same: input and output layers, say.
    AdamW's rate is `adamw_lr` where given, and its weight decay spares vectors.
    """
    inner = {id(p) for layer in module.modules() for p in _matrices(layer)}
    muon: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in inner and not name.startswith(tuple(adamw)):
            muon.append(parameter)
        else:
            (matrices if parameter.ndim > 1 else vectors).append(parameter)
    optimizers: dict[str, Optimizer] = {}
    if muon:
        optimizers[f"{prefix}muon"] = Muon(muon, lr=lr, weight_decay=weight_decay)
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if groups:
        rate = lr if adamw_lr is None else adamw_lr
        optimizers[f"{prefix}adamw"] = AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)
    return optimizers


def _matrices(layer: nn.Module) -> list[nn.Parameter]:
    if not isinstance(layer, _MATRIX_LAYERS) or getattr(layer, "groups", 1) > 1:
        return []
    # A weight that is computed from others (weight norm) is no parameter of the layer.
    weight = dict(layer.named_parameters(recurse=False)).get("weight")
    if weight is None or min(weight.shape[0], weight[0].numel()) < SMALLEST_SIDE:
        return []
    return [weight]
