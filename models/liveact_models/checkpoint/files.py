"""Tensors out of files: safetensors, sharded safetensors and .pth archives, mapped and not copied."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from liveact_models.checkpoint.errors import CheckpointError

_HEADER_LENGTH_BYTES = 8
_ZIP_MAGIC = b"PK\x03\x04"
_AGAIN = "copy or download the file again"


def read_json(path: Path) -> dict[str, Any]:
    """Raises `CheckpointError` CHECKPOINT_NOT_FOUND or FILE_UNREADABLE."""
    _require(path)
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError("FILE_UNREADABLE", f"{path}: not JSON ({error}); {_AGAIN}") from None
    if not isinstance(data, dict):
        raise CheckpointError("FILE_UNREADABLE", f"{path}: holds a {type(data).__name__}, not an object; {_AGAIN}")
    return data


def read_safetensors(path: Path, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Raises `CheckpointError` CHECKPOINT_NOT_FOUND, FILE_TRUNCATED or FILE_UNREADABLE."""
    _require(path)
    _check_length(path)
    try:
        with safe_open(path, framework="pt", device=device) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise CheckpointError("FILE_UNREADABLE", f"{path}: not a safetensors file ({error}); {_AGAIN}") from None


def read_shards(folder: Path, stem: str, device: str = "cpu") -> dict[str, torch.Tensor]:
    """The tensors of STEM.safetensors, or of the shards that STEM.safetensors.index.json names.

    Raises `CheckpointError` as `read_safetensors`, TENSOR_MISSING when a shard lacks what the index says it holds.
    """
    index_path = folder / f"{stem}.safetensors.index.json"
    if not index_path.is_file():
        return read_safetensors(folder / f"{stem}.safetensors", device)
    shard_of = read_json(index_path).get("weight_map")
    if not isinstance(shard_of, dict):
        raise CheckpointError("FILE_UNREADABLE", f"{index_path}: no table 'weight_map'; {_AGAIN}")
    tensors: dict[str, torch.Tensor] = {}
    for shard in sorted(set(shard_of.values())):
        tensors |= read_safetensors(folder / shard, device)
    if missing := sorted(set(shard_of) - set(tensors)):
        name = missing[0]
        raise CheckpointError(
            "TENSOR_MISSING",
            f"{folder / shard_of[name]}: tensor {name!r} is missing, {index_path.name} has it; {_AGAIN}",
        )
    return tensors


def read_pth(path: Path) -> dict[str, torch.Tensor]:
    """A state dict saved by torch, mapped from the file; nothing but tensors is unpickled.

    Raises `CheckpointError` CHECKPOINT_NOT_FOUND, FILE_TRUNCATED or FILE_UNREADABLE.
    """
    _require(path)
    with path.open("rb") as file:
        if file.read(len(_ZIP_MAGIC)) != _ZIP_MAGIC:
            raise CheckpointError("FILE_UNREADABLE", f"{path}: not an archive written by torch.save; {_AGAIN}")
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            "FILE_UNREADABLE", f"{path}: holds objects other than tensors, which are not loaded; save a state dict"
        ) from None
    except (OSError, EOFError, RuntimeError) as error:
        # The archive's directory stands at its end: an archive that begins well and has none was cut off.
        line = str(error).splitlines()[0]
        raise CheckpointError("FILE_TRUNCATED", f"{path}: the archive is cut off ({line}); {_AGAIN}") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise CheckpointError("FILE_UNREADABLE", f"{path}: expected a flat table of tensors; save a state dict")
    return tensors


def _require(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError("CHECKPOINT_NOT_FOUND", f"{path}: no such file; the checkpoint is incomplete, {_AGAIN}")


def _check_length(path: Path) -> None:
    """The header of a safetensors file says how long the file is."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_length = int.from_bytes(file.read(_HEADER_LENGTH_BYTES), "little")
        needed = _HEADER_LENGTH_BYTES + header_length
        if size < _HEADER_LENGTH_BYTES or header_length == 0:
            needed = max(needed, _HEADER_LENGTH_BYTES + 2)
        elif size >= needed:
            try:
                header = json.loads(file.read(header_length))
                needed += max(
                    (entry["data_offsets"][1] for n, entry in header.items() if n != "__metadata__"), default=0
                )
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise CheckpointError(
                    "FILE_UNREADABLE", f"{path}: not a safetensors file ({error}); {_AGAIN}"
                ) from None
    if size < needed:
        raise CheckpointError("FILE_TRUNCATED", f"{path}: {size} bytes of {needed}; {_AGAIN}")
