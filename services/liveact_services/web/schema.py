"""How the API's messages are written, as the page's decoder reads it: made from the generated stubs, so that it cannot drift."""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from liveact.v1 import avatar_pb2 as pb

_SCALARS = {
    FieldDescriptor.TYPE_INT32: "int", FieldDescriptor.TYPE_INT64: "int", FieldDescriptor.TYPE_UINT64: "int",
    FieldDescriptor.TYPE_UINT32: "int", FieldDescriptor.TYPE_BOOL: "bool", FieldDescriptor.TYPE_ENUM: "enum",
    FieldDescriptor.TYPE_STRING: "string", FieldDescriptor.TYPE_BYTES: "bytes", FieldDescriptor.TYPE_MESSAGE: "message",
}  # fmt: skip


@cache
def schema() -> dict[str, Any]:
    """{"messages": {name: [{number, name, kind, repeated, of}]}, "enums": {name: {value: number}}}; the stream's messages.

    Raises KeyError for a kind of field that the page's decoder does not know.
    """
    messages: dict[str, Any] = {}
    enums: dict[str, dict[str, int]] = {}

    def add(descriptor: Descriptor) -> str:
        if descriptor.name not in messages:
            messages[descriptor.name] = fields = []
            for field in descriptor.fields:
                kind = _SCALARS[field.type]
                entry = {"number": field.number, "name": field.name, "kind": kind, "repeated": field.is_repeated}
                if kind == "message":
                    entry["of"] = add(field.message_type)
                elif kind == "enum":
                    entry["of"] = field.enum_type.name
                    enums[field.enum_type.name] = {value.name: value.number for value in field.enum_type.values}
                fields.append(entry)
        return descriptor.name

    for message in (pb.StreamAvatarRequest, pb.StreamAvatarResponse):
        add(message.DESCRIPTOR)
    return {"messages": messages, "enums": enums}
