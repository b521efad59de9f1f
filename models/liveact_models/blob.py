"""Named tensors and a header as one checksummed run of bytes: a safetensors file that any reader of that format opens.

The header travels in safetensors' metadata: `format` and `version` in clear, `header` as JSON, and a
`checksum` over header and tensors.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

FORMAT = "liveact.session"
VERSION = 1

StateReason = Literal[
    "STATE_FORMAT", "STATE_TRUNCATED", "STATE_VERSION", "STATE_CHECKSUM", "STATE_MODEL_MISMATCH", "STATE_TENSOR"
]

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Names of types in a safetensors header."""
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
HEADER_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors format."""


class StateError(ValueError):
    """A session export that cannot be adopted: `reason` is stable, the message names what is wrong and what fits."""

    def __init__(self, reason: StateReason, message: str) -> None:
        super().__init__(message)
        self.reason: StateReason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is pickled by its message alone, and this one crosses processes.
        return StateError, (self.reason, str(self))


def pack(header: dict[str, Any], tensors: dict[str, Tensor]) -> bytes:
    """One safetensors blob of the tensors (any device, any layout) with the header in its metadata.

    Raises `TypeError` for a tensor type that safetensors does not name.
    """
    entries: dict[str, Any] = {}
    chunks: list[memoryview] = []
    offset = 0
    # Wide types first, as the format's own writer does, so every tensor lies aligned to its element.
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        if tensor.dtype not in DTYPE_NAMES:
            raise TypeError(f"tensor {name}: type {tensor.dtype} has no name in safetensors")
        data = _bytes_of(tensor)
        shape, dtype = list(tensor.shape), DTYPE_NAMES[tensor.dtype]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        chunks.append(data)
        offset += len(data)
    text = json.dumps(header, sort_keys=True)
    metadata = {"format": FORMAT, "version": str(VERSION), "header": text}
    metadata["checksum"] = _checksum(text, entries, chunks)
    prefix = json.dumps({"__metadata__": metadata, **entries}).encode()
    prefix += b" " * (-len(prefix) % HEADER_LENGTH_BYTES)
    return b"".join((len(prefix).to_bytes(HEADER_LENGTH_BYTES, "little"), prefix, *chunks))


def unpack(blob: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors of a blob. The tensors are aligned copies on the CPU that own their memory.

    Raises `StateError`: STATE_FORMAT, STATE_TRUNCATED, STATE_VERSION or STATE_CHECKSUM.
    """
    header, entries, chunks = _checked(blob)
    return header, {name: _tensor_of(chunk, entries[name]) for name, chunk in zip(entries, chunks, strict=True)}


def verify(blob: bytes) -> dict[str, Any]:
    """The header of a whole and unchanged blob; no tensor is copied. Raises `StateError` as `unpack` does."""
    return _checked(blob)[0]


def _checked(blob: bytes) -> tuple[dict[str, Any], dict[str, Any], list[memoryview]]:
    entries, metadata, data = _split(blob)
    if metadata.get("format") != FORMAT:
        raise StateError("STATE_FORMAT", f"format {metadata.get('format')!r}: accepted is {FORMAT!r}")
    if metadata.get("version") != str(VERSION):
        raise StateError("STATE_VERSION", f"version {metadata.get('version')!r}: accepted is {VERSION}")
    try:
        chunks = _chunks(entries, data)
        checksum, text = _checksum(metadata["header"], entries, chunks), metadata["header"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateError("STATE_FORMAT", f"the table of tensors is damaged ({type(error).__name__}: {error})") from None
    if metadata.get("checksum") != checksum:
        raise StateError(
            "STATE_CHECKSUM", "the checksum does not match: header or tensors were changed after the export"
        )
    return json.loads(text), entries, chunks


def _split(blob: bytes) -> tuple[dict[str, Any], dict[str, Any], memoryview]:
    """The table of tensors, the metadata and the tensor bytes, without a copy."""
    size = int.from_bytes(blob[:HEADER_LENGTH_BYTES], "little")
    if len(blob) >= HEADER_LENGTH_BYTES and size > _MAX_HEADER_BYTES:
        raise StateError("STATE_FORMAT", f"a header of {size} bytes: this is no session export")
    start = HEADER_LENGTH_BYTES + size
    if len(blob) < max(start, HEADER_LENGTH_BYTES + 1):
        raise StateError("STATE_TRUNCATED", f"{len(blob)} bytes end inside the header of {start} bytes")
    try:
        entries = json.loads(blob[HEADER_LENGTH_BYTES:start])
        metadata = entries.pop("__metadata__")
        ends = [entry["data_offsets"][1] for entry in entries.values()]
        end = start + max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise StateError("STATE_FORMAT", f"the header cannot be read ({type(error).__name__}: {error})") from None
    if len(blob) < end:
        raise StateError("STATE_TRUNCATED", f"{len(blob)} bytes of {end}: the export was cut short")
    if len(blob) > end:
        raise StateError("STATE_FORMAT", f"{len(blob) - end} bytes follow the last tensor")
    if not isinstance(metadata, dict):
        raise StateError("STATE_FORMAT", "the metadata is not a table")
    return entries, metadata, memoryview(blob)[start:]


def _chunks(entries: dict[str, Any], data: memoryview) -> list[memoryview]:
    """The bytes of each tensor; raises `ValueError` unless they tile the data as type and shape say."""
    chunks, expected = [], 0
    for name, entry in entries.items():
        begin, end = entry["data_offsets"]
        if begin != expected or end - begin != math.prod(entry["shape"]) * DTYPES[entry["dtype"]].itemsize:
            raise ValueError(f"tensor {name} of shape {entry['shape']} does not fill its place")
        chunks.append(data[begin:end])
        expected = end
    return chunks


def _checksum(header: str, entries: dict[str, Any], chunks: list[memoryview]) -> str:
    digest = hashlib.sha256(header.encode())
    for (name, entry), chunk in zip(entries.items(), chunks, strict=True):
        digest.update(f"{name} {entry['dtype']} {entry['shape']}".encode())
        digest.update(chunk)
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _tensor_of(chunk: memoryview, entry: dict[str, Any]) -> Tensor:
    owned = torch.empty(len(chunk), dtype=torch.uint8)
    owned.numpy()[:] = np.frombuffer(chunk, dtype=np.uint8)
    return owned.view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
