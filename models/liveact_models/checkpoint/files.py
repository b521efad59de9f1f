"""JSON files and .pth archives; the tensors of an archive are mapped and not copied."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch

from liveact_models.checkpoint.errors import AGAIN, CheckpointError

_ZIP_MAGIC = b"PK\x03\x04"


def read_json(path: Path) -> dict[str, Any]:
    """Raises `CheckpointError` CHECKPOINT_NOT_FOUND or FILE_UNREADABLE."""
    _require(path)
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError("FILE_UNREADABLE", f"{path}: not JSON ({error}); {AGAIN}") from None
    if not isinstance(data, dict):
        raise CheckpointError("FILE_UNREADABLE", f"{path}: holds a {type(data).__name__}, not an object; {AGAIN}")
    return data


def read_pth(path: Path) -> dict[str, torch.Tensor]:
    """A state dict saved by torch, mapped from the file; nothing but tensors is unpickled.

    Raises `CheckpointError` CHECKPOINT_NOT_FOUND, FILE_TRUNCATED or FILE_UNREADABLE.
    """
    _require(path)
    with path.open("rb") as file:
        if file.read(len(_ZIP_MAGIC)) != _ZIP_MAGIC:
            raise CheckpointError("FILE_UNREADABLE", f"{path}: not an archive written by torch.save; {AGAIN}")
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            "FILE_UNREADABLE", f"{path}: holds objects other than tensors, which are not loaded; save a state dict"
        ) from None
    except (OSError, EOFError, RuntimeError) as error:
        # The archive's directory stands at its end: an archive that begins well and has none was cut off.
        line = str(error).splitlines()[0]
        raise CheckpointError("FILE_TRUNCATED", f"{path}: the archive is cut off ({line}); {AGAIN}") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise CheckpointError("FILE_UNREADABLE", f"{path}: expected a flat table of tensors; save a state dict")
    return tensors


def _require(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError("CHECKPOINT_NOT_FOUND", f"{path}: no such file; the checkpoint is incomplete, {AGAIN}")
