"""Unary calls over HTTP, as the Connect protocol writes them: POST /liveact.v1.AvatarService/Method, JSON or protobuf.

Any Connect client can make them; the page does with `fetch`. They end in the Gateway's own gRPC methods, so that who may
call, quotas and errors are the same.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2  # noqa: F401  (the details' types must be known to be printed)
from grpc import StatusCode
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response

from liveact.v1 import avatar_pb2 as pb
from liveact_services.errors import DETAILS_KEY, ServiceError, as_service_error, fail
from liveact_services.http_status import http_status

SERVICE = pb.DESCRIPTOR.services_by_name["AvatarService"].full_name
JSON, PROTO = "application/json", "application/proto"
MAX_BODY_BYTES = 24 * 1024 * 1024
"""A portrait of 16 MiB in base64, and what is around it."""

Endpoint = Callable[[Request], Awaitable[Response]]


class HttpContext:
    """What a method of the Gateway asks of its call, where Serve's gRPC context would stand."""

    def __init__(self, connection: HTTPConnection, metadata: Iterable[tuple[str, str]] | None = None) -> None:
        """`metadata`: in place of the connection's headers."""
        self._metadata = list(connection.headers.items() if metadata is None else metadata)
        self._peer = "" if connection.client is None else f"{connection.client.host}:{connection.client.port}"
        self.code: StatusCode | None = None
        """Set by a call that failed."""
        self._text = ""
        self._trailers: list[tuple[str, bytes]] = []

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return self._metadata

    def peer(self) -> str:
        return self._peer

    def set_code(self, code: StatusCode) -> None:
        self.code = code

    def set_details(self, text: str) -> None:
        self._text = text

    def set_trailing_metadata(self, trailers: list[tuple[str, bytes]]) -> None:
        self._trailers = trailers

    def error(self) -> dict[str, Any] | None:
        """How the call failed, as Connect writes it; None where it did not."""
        if self.code is None:
            return None
        status = status_pb2.Status.FromString(dict(self._trailers).get(DETAILS_KEY, b""))
        details = [
            {
                "type": packed.TypeName(),
                "value": base64.b64encode(packed.value).decode().rstrip("="),
                "debug": {k: v for k, v in json_format.MessageToDict(packed).items() if k != "@type"},
            }
            for packed in status.details
        ]
        return {"code": self.code.name.lower(), "message": self._text, "details": details}

    def refusal(self) -> JSONResponse:
        """The answer to a call that failed."""
        return JSONResponse(self.error(), http_status(self.code or StatusCode.UNKNOWN))

    def fail(self, error: ServiceError) -> None:
        """The call failed before it reached the Gateway."""
        self.set_code(error.code)
        self.set_details(error.message)
        self.set_trailing_metadata(error.trailing_metadata())


def require_own_page(connection: HTTPConnection) -> None:
    """Raises `ServiceError` for a call that another site's page has its visitor's browser make.

    Browsers say where a page comes from, and other clients say nothing.
    """
    origin = connection.headers.get("origin")
    host = connection.headers.get("host", "")
    if origin is not None and origin.partition("://")[2].lower() != host.lower():
        raise fail("ORIGIN_REFUSED", f"a page of {origin} called {host}: accepted are pages of this service")


def unary(service: Any) -> Endpoint:
    """The route of every unary method of the service."""

    async def call(request: Request) -> Response:
        context = HttpContext(request)
        kind = content_type(request)
        answer: Message | None = None
        try:
            require_own_page(request)
            message = await _request(request, kind)
            answer = await getattr(service, request.path_params["method"])(message, context)
        except Exception as error:
            context.fail(as_service_error(error))
        if context.code is not None or answer is None:
            return context.refusal()
        if kind == PROTO:
            return Response(answer.SerializeToString(), media_type=PROTO)
        return Response(json_format.MessageToJson(answer, indent=None), media_type=JSON)

    return call


async def _request(request: Request, kind: str) -> Message:
    """The method's request message. Raises `ServiceError` METHOD_UNKNOWN and BODY_INVALID."""
    name = request.path_params["method"]
    method = pb.DESCRIPTOR.services_by_name["AvatarService"].methods_by_name.get(name)
    if method is None or method.client_streaming:
        raise fail(
            "METHOD_UNKNOWN", f"no unary method {name!r}: accepted are those of {SERVICE}; StreamAvatar is a WebSocket"
        )
    if kind not in (JSON, PROTO):
        # Nothing else: what a page of another site can send without being asked is text and forms.
        raise fail("BODY_INVALID", f"content type {kind!r}: accepted are {JSON} and {PROTO}")
    body = await body_of(request)
    message: Message = getattr(pb, method.input_type.name)()
    try:
        return json_format.Parse(body, message) if kind == JSON else message.FromString(body)
    except (json_format.ParseError, UnicodeDecodeError, DecodeError) as error:
        raise fail("BODY_INVALID", f"no {method.input_type.name}: {error}") from None


def content_type(request: Request) -> str:
    """Of the request's body, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def body_of(request: Request) -> bytes:
    """The request's body. Raises `ServiceError` BODY_INVALID beyond `MAX_BODY_BYTES`."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise fail("BODY_INVALID", f"a body beyond {MAX_BODY_BYTES} bytes: accepted are as many")
    return bytes(body)
