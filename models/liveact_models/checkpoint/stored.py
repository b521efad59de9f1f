"""Tensors as safetensors files hold them: what they are is read from the headers, a value only when it is asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from liveact_models.blob import DTYPES, HEADER_LENGTH_BYTES
from liveact_models.checkpoint.errors import AGAIN, CheckpointError


@dataclass(frozen=True)
class Stored:
    """One tensor in a file."""

    path: Path
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class StoredTensors(Mapping[str, torch.Tensor]):
    """Tensors of safetensors files by name, in the order of the files.

    A value on the CPU is the file's own pages, on a GPU a copy straight from them; none is kept here, so who takes them one
    after the other has the model in memory once.
    """

    def __init__(self, entries: Mapping[str, Stored], device: str = "cpu") -> None:
        self.entries = dict(entries)
        self._device = device
        self._open: tuple[Path, Any] | None = None

    def __getitem__(self, name: str) -> torch.Tensor:
        path = self.entries[name].path
        try:
            if self._open is None or self._open[0] != path:
                self._open = (path, safe_open(path, framework="pt", device=self._device))
            return self._open[1].get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError("FILE_UNREADABLE", f"{path}: not a safetensors file ({error}); {AGAIN}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def shape_of(tensors: Mapping[str, torch.Tensor], name: str) -> tuple[int, ...]:
    """A tensor's shape, without reading its value where that can be had."""
    return tensors.entries[name].shape if isinstance(tensors, StoredTensors) else tuple(tensors[name].shape)


def dtype_of(tensors: Mapping[str, torch.Tensor], name: str) -> torch.dtype:
    """A tensor's type as stored, without reading its value where that can be had."""
    return tensors.entries[name].dtype if isinstance(tensors, StoredTensors) else tensors[name].dtype


def stored_in(path: Path) -> dict[str, Stored]:
    """What a safetensors file holds, by its header.

    Raises `CheckpointError` CHECKPOINT_NOT_FOUND, FILE_TRUNCATED (the header says how long the file is) or FILE_UNREADABLE.
    """
    if not path.is_file():
        raise CheckpointError("CHECKPOINT_NOT_FOUND", f"{path}: no such file; the checkpoint is incomplete, {AGAIN}")
    size = path.stat().st_size
    with path.open("rb") as file:
        header_length = int.from_bytes(file.read(HEADER_LENGTH_BYTES), "little")
        needed = HEADER_LENGTH_BYTES + header_length
        if size < HEADER_LENGTH_BYTES or header_length == 0:
            needed = max(needed, HEADER_LENGTH_BYTES + 2)
        if size < needed:
            raise CheckpointError("FILE_TRUNCATED", f"{path}: {size} bytes of {needed}; {AGAIN}")
        try:
            header = json.loads(file.read(header_length))
            header.pop("__metadata__", None)
            needed += max((entry["data_offsets"][1] for entry in header.values()), default=0)
            held = {name: Stored(path, tuple(e["shape"]), DTYPES[e["dtype"]]) for name, e in header.items()}
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise CheckpointError("FILE_UNREADABLE", f"{path}: not a safetensors file ({error}); {AGAIN}") from None
    if size < needed:
        raise CheckpointError("FILE_TRUNCATED", f"{path}: {size} bytes of {needed}; {AGAIN}")
    return held


def shard_files(folder: Path, stem: str) -> list[Path]:
    """STEM.safetensors, or the shards that STEM.safetensors.index.json names; whether they are there is not asked."""
    index = folder / f"{stem}.safetensors.index.json"
    if not index.is_file():
        return [folder / f"{stem}.safetensors"]
    return [folder / name for name in sorted(set(_weight_map(index).values()))]


def read_stored(folder: Path, stem: str, device: str = "cpu") -> StoredTensors:
    """The tensors of STEM.safetensors, or of the shards that STEM.safetensors.index.json names.

    Raises `CheckpointError` as `stored_in`, TENSOR_MISSING when a shard lacks what the index says it holds.
    """
    entries: dict[str, Stored] = {}
    for path in shard_files(folder, stem):
        entries |= stored_in(path)
    index = folder / f"{stem}.safetensors.index.json"
    if index.is_file():
        shard_of = _weight_map(index)
        if missing := sorted(set(shard_of) - set(entries)):
            name = missing[0]
            raise CheckpointError(
                "TENSOR_MISSING",
                f"{folder / shard_of[name]}: tensor {name!r} is missing, {index.name} has it; {AGAIN}",
            )
    return StoredTensors(entries, device)


def _weight_map(index: Path) -> dict[str, str]:
    from liveact_models.checkpoint.files import read_json

    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(name, str) for name in shard_of.values()):
        raise CheckpointError("FILE_UNREADABLE", f"{index}: no table 'weight_map' of file names; {AGAIN}")
    return shard_of
