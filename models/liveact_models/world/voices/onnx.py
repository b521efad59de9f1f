"""A network's inner value, asked for as one more output, without the onnx package."""

from __future__ import annotations

from pathlib import Path


def with_output(model: Path, name: str) -> bytes:
    """The ONNX file's bytes with the tensor `name` as its last output.

    A protobuf parser merges repeated occurrences of a message, so a graph that holds nothing but the output is appended:
    ModelProto.graph is field 7, GraphProto.output 12, ValueInfoProto.name 1. Raises ValueError where no node is so named.
    """
    data = model.read_bytes()
    if name.encode() not in data:
        raise ValueError(f"{model} computes no tensor named {name!r}: is it another version of this voice?")
    return data + _field(7, _field(12, _field(1, name.encode())))


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
