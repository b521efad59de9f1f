"""The stream over a WebSocket: each binary frame is one StreamAvatarRequest or StreamAvatarResponse.

The last frame is text: how the stream ended, in the form in which Connect ends streams: {} or {"error": ...}. Browsers
cannot send headers with a WebSocket, so a key or token may come as a subprotocol, "bearer." and its base64url, beside
"liveact.v1".
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from google.protobuf.message import DecodeError
from starlette.websockets import WebSocket, WebSocketDisconnect

from liveact.v1 import avatar_pb2 as pb
from liveact_services.errors import as_service_error, fail
from liveact_services.web.calls import HttpContext, require_own_page

PROTOCOL, BEARER = "liveact.v1", "bearer."
ENDED, FAILED = 1000, 4000
"""Close codes: 1000, or 4000 and the number of the gRPC code."""

log = logging.getLogger(__name__)


def stream(service: Any) -> Callable[[WebSocket], Awaitable[None]]:
    """The route of `StreamAvatar`."""

    async def serve(socket: WebSocket) -> None:
        offered = socket.scope.get("subprotocols") or []
        await socket.accept(PROTOCOL if PROTOCOL in offered else None)
        context = HttpContext(socket, _metadata(socket))
        try:
            try:
                require_own_page(socket)
                async for response in service.StreamAvatar(_requests(socket), context):
                    await socket.send_bytes(response.SerializeToString())
            except Exception as error:
                if _gone(error):
                    raise
                context.fail(as_service_error(error))
            failure = context.error()
            await socket.send_text(json.dumps({"error": failure} if failure else {}))
            await socket.close(ENDED if context.code is None else FAILED + context.code.value[0])
        except Exception as error:
            if not _gone(error):
                raise
            log.info("a browser has gone")

    return serve


async def _requests(socket: WebSocket) -> AsyncIterator[pb.StreamAvatarRequest]:
    """What the client sends. Raises when it goes; a client that is done says `close`."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1006))
        data = message.get("bytes")
        if data is None:
            raise fail("MESSAGE_INVALID", "a text frame: accepted are binary frames of one StreamAvatarRequest each")
        try:
            request = pb.StreamAvatarRequest.FromString(data)
        except DecodeError:
            raise fail("MESSAGE_INVALID", f"{len(data)} bytes are no StreamAvatarRequest") from None
        yield request


def _metadata(socket: WebSocket) -> list[tuple[str, str]]:
    found = socket.headers.items()
    for offered in socket.scope.get("subprotocols") or []:
        if offered.startswith(BEARER):
            text = offered.removeprefix(BEARER)
            try:
                token = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
            except (binascii.Error, ValueError):
                token = text  # which nobody has
            found.append(("authorization", f"Bearer {token}"))
    return found


def _gone(error: Exception) -> bool:
    """Whether that is how Starlette says that the other side is not there any more."""
    return isinstance(error, WebSocketDisconnect | RuntimeError | OSError)
