"""Weights into a module built on the meta device: checked against its names and shapes, then taken, not copied."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

import torch
from torch import nn

from liveact_models.checkpoint.errors import CheckpointError


def assign(
    module: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    *,
    source: str,
    fix: str,
    passed_over: Collection[str] = (),
    device: str,
    dtype: torch.dtype,
) -> None:
    """Give the module its tensors; names in `passed_over` may be there and are not read.

    Raises `CheckpointError` TENSOR_MISSING, TENSOR_EXTRA or TENSOR_SHAPE naming `source`, tensor, shapes and `fix`.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for name, shape in expected.items():
        if name not in tensors:
            raise CheckpointError(
                "TENSOR_MISSING", f"{source}: tensor {name!r} of shape {list(shape)} is missing; {fix}"
            )
        found = tuple(tensors[name].shape)
        if found != shape:
            raise CheckpointError(
                "TENSOR_SHAPE", f"{source}: tensor {name!r} has shape {list(found)}, expected {list(shape)}; {fix}"
            )
    if extra := sorted(set(tensors) - set(expected) - set(passed_over)):
        shape = tuple(tensors[extra[0]].shape)
        more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        raise CheckpointError(
            "TENSOR_EXTRA", f"{source}: tensor {extra[0]!r} of shape {list(shape)}{more} belongs to no parameter; {fix}"
        )
    module.load_state_dict({name: tensors[name].to(device, dtype) for name in expected}, assign=True)
    module.to(device)  # constants that are no weights


def untrained(module: nn.Module, seed: str, *, device: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Initial values for every tensor of the module, the same in every process: each has its own generator.

    Matrices keep the scale of what they are fed (variance 1 / fan-in), norms are the identity, biases zero, and the
    ConvKV weights the mean of the tokens they compress (model-facts, "ConvKV memory").
    """
    values: dict[str, torch.Tensor] = {}
    for name, tensor in module.state_dict().items():
        value = _initial(name, tensor.shape, f"{seed}/{name}")
        values[name] = value.to(device, dtype)
    for name in values:
        if name.endswith("parametrizations.weight.original0"):
            direction = values[name.removesuffix("0") + "1"]
            values[name] = direction.float().norm(dim=(0, 1), keepdim=True).to(dtype)  # weight norm of a plain weight
    return values


def _initial(name: str, shape: torch.Size, seed: str) -> torch.Tensor:
    if "memory_proj" in name:
        return torch.full(shape, 1 / shape[-1])
    if name.endswith("bias"):
        return torch.zeros(shape)
    if name.endswith("gamma") or (len(shape) == 1 and name.endswith("weight")):
        return torch.ones(shape)
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little"))
    fan_in = max(shape.numel() // shape[0], 1)
    return torch.randn(shape, generator=generator) * fan_in**-0.5
