"""Reading a folder of golden tensors (tests/golden/README.md describes one)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch


class ParityError(RuntimeError):
    """A golden folder that cannot be compared with; the message names what is missing."""


def read_tensors(directory: Path, name: str) -> dict[str, torch.Tensor]:
    """The tensors of NAME.safetensors; raises `ParityError` when the file is missing or unreadable."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = directory / f"{name}.safetensors"
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ParityError(f"{path}: not a readable safetensors file ({error})") from None


def read_config(directory: Path, name: str, kind: type, **fixed: Any) -> Any:
    """A config of that dataclass out of NAME.json, whose other fields are passed over; `fixed` fields are set."""
    path = directory / f"{name}.json"
    try:
        data = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ParityError(f"{path}: not a readable configuration ({error})") from None
    known = {field.name for field in dataclasses.fields(kind)}
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items() if key in known}
    return kind(**values, **fixed)
