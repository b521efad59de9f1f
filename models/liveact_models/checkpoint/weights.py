"""Weights into a module built on the meta device: checked against its names and shapes, then taken, not copied."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from liveact_models.checkpoint.errors import CheckpointError
from liveact_models.checkpoint.stored import dtype_of, shape_of
from liveact_models.precision.fp8 import FP8, Quantised, dequantise, quantise
from liveact_models.precision.linear import SCALE_SUFFIX


@dataclass(frozen=True)
class Misfit:
    """A tensor that is missing, of another shape, or of no parameter."""

    reason: str
    """TENSOR_MISSING, TENSOR_SHAPE or TENSOR_EXTRA."""
    name: str
    expected: tuple[int, ...] | None
    found: tuple[int, ...] | None

    def __str__(self) -> str:
        match self.reason:
            case "TENSOR_MISSING":
                return f"tensor {self.name!r} of shape {_shape(self.expected)} is missing"
            case "TENSOR_SHAPE":
                return f"tensor {self.name!r} has shape {_shape(self.found)}, expected {_shape(self.expected)}"
            case _:
                return f"tensor {self.name!r} of shape {_shape(self.found)} belongs to no parameter"


def misfits(module: nn.Module, tensors: Mapping[str, torch.Tensor], passed_over: Collection[str] = ()) -> list[Misfit]:
    """How the tensors' names and shapes differ from the module's; the scales of e4m3 tensors belong to those.

    Where the module holds e4m3 and the file does not, scales are made while loading and are not missed.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    eight_bits = {name for name in tensors if dtype_of(tensors, name) == FP8}
    for name in eight_bits & set(expected):
        expected[name + SCALE_SUFFIX] = (expected[name][0], 1)
    wrong = []
    for name, shape in expected.items():
        base = name.removesuffix(SCALE_SUFFIX)
        if name not in tensors:
            if base == name or base not in tensors or base in eight_bits:
                wrong.append(Misfit("TENSOR_MISSING", name, shape, None))
        elif (found := shape_of(tensors, name)) != shape:
            wrong.append(Misfit("TENSOR_SHAPE", name, shape, found))
    extra = sorted(set(tensors) - set(expected) - set(passed_over))
    return wrong + [Misfit("TENSOR_EXTRA", name, None, shape_of(tensors, name)) for name in extra]


def assign(
    module: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    *,
    source: str,
    fix: str,
    passed_over: Collection[str] = (),
    device: str,
    dtype: torch.dtype,
    host: Collection[str] = (),
) -> None:
    """Give the module its tensors one by one, so that no second copy of it is in memory.

    Names in `passed_over` may be there and are not read; those in `host` stay on the CPU. e4m3 tensors become `dtype`, unless the
    module holds e4m3 itself: then it gets them and their scales as stored, or made of what is stored.

    Raises `CheckpointError` TENSOR_MISSING, TENSOR_EXTRA or TENSOR_SHAPE naming `source`, tensor, shapes and `fix`.
    """
    if wrong := misfits(module, tensors, passed_over):
        first = wrong[0]
        alike = sum(misfit.reason == "TENSOR_EXTRA" for misfit in wrong)
        more = f" (and {alike - 1} more)" if first.reason == "TENSOR_EXTRA" and alike > 1 else ""
        raise CheckpointError(first.reason, f"{source}: {first}{more}; {fix}")
    expected = module.state_dict()
    values: dict[str, torch.Tensor] = {}
    # In the order of the files, not of the module: a disk is read from front to back.
    for name in tensors:
        if name in expected:
            place = "cpu" if name in host else device
            values |= _values(tensors, name, expected[name].dtype, place, dtype)
    module.load_state_dict(values, assign=True)
    _place_constants(module, device)


def _values(
    tensors: Mapping[str, torch.Tensor], name: str, wanted: torch.dtype, device: str, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """The tensor as the module wants it; with its scales, where it becomes e4m3 here."""
    stored = tensors[name]
    if name.endswith("weight" + SCALE_SUFFIX):
        return {name: stored.to(device)}
    if wanted == FP8:
        if stored.dtype == FP8:
            return {name: stored.to(device)}
        matrix, scale = quantise(stored.to(device))
        return {name: matrix, name + SCALE_SUFFIX: scale}
    if stored.dtype == FP8:
        return {name: dequantise(Quantised(stored.to(device), tensors[name + SCALE_SUFFIX].to(device)), dtype)}
    return {name: stored.to(device, dtype)}


def _place_constants(module: nn.Module, device: str) -> None:
    """What is no weight and in no file."""
    kept = module.state_dict()
    for prefix, part in module.named_modules():
        for name, constant in part.named_buffers(recurse=False):
            if (f"{prefix}.{name}" if prefix else name) not in kept:
                part.register_buffer(name, constant.to(device), persistent=False)


def _shape(shape: tuple[int, ...] | None) -> list[int]:
    return list(shape or ())


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
