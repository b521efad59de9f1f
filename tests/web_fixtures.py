"""The HTTP port without Serve's proxy, and a client of it that is no browser."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import uvicorn

from liveact.v1 import avatar_pb2 as pb
from liveact_services.service import free_port
from liveact_services.web.app import console
from liveact_services.web.calls import SERVICE


@asynccontextmanager
async def serving_page(service: Any) -> AsyncIterator[str]:
    """The console of a Gateway of this process, on a free port; gives its URL."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(console(service), port=port, log_level="error", ws_max_size=32 * 2**20))
    running = asyncio.create_task(server.serve())
    while not server.started:
        assert not running.done(), "the server did not start"
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        await running


@dataclass
class Said:
    """All that a WebSocket said."""

    responses: list[pb.StreamAvatarResponse] = field(default_factory=list)
    end: dict[str, Any] | None = None
    """The last frame: {} or {"error": ...}; None where the connection broke before it."""
    close_code: int | None = None

    @property
    def session(self) -> pb.Session:
        return next(response.session for response in self.responses if response.HasField("session"))

    @property
    def frames(self) -> list[pb.VideoFrame]:
        return [frame for response in self.responses for frame in response.video.frames]

    @property
    def reason(self) -> str:
        return "" if self.end is None else reason(self.end.get("error"))


class Socket:
    """One call of the stream. Iterating gives responses and notes them in `said`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.raw = socket
        self.said = Said()

    async def send(self, **payload: Any) -> None:
        await self.raw.send_bytes(pb.StreamAvatarRequest(**payload).SerializeToString())

    async def __aiter__(self) -> AsyncIterator[pb.StreamAvatarResponse]:
        async for message in self.raw:
            if message.type is aiohttp.WSMsgType.TEXT:
                self.said.end = json.loads(message.data)
                continue
            response = pb.StreamAvatarResponse.FromString(message.data)
            self.said.responses.append(response)
            yield response
        self.said.close_code = self.raw.close_code

    async def until(self, kind: Any) -> None:
        """Listen until an event of that type has come."""
        async for response in self:
            if response.event.type == kind:
                return
        raise AssertionError(f"the stream ended first: {self.said.end}")

    async def drain(self) -> Said:
        """Listen to the end, and acknowledge what comes."""
        async for response in self:
            if response.video.frames:
                await self.send(ack=pb.Ack(next_frame=response.video.frames[-1].index + 1))
        return self.said


@asynccontextmanager
async def socket(
    url: str, config: pb.SessionConfig | None = None, *, key: str = "", headers: dict[str, str] | None = None
) -> AsyncIterator[Socket]:
    """A WebSocket, with the config sent on it."""
    protocols: Sequence[str] = ["liveact.v1"]
    if key:
        protocols = [*protocols, "bearer." + base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")]
    async with aiohttp.ClientSession() as http:
        place = f"{url}{SERVICE}/StreamAvatar"
        async with http.ws_connect(place, protocols=protocols, headers=headers, max_msg_size=0) as opened:
            call = Socket(opened)
            if config is not None:
                await call.send(config=config)
            yield call


async def post(url: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Status and answer of a POST: JSON unless bytes are sent."""
    raw = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    async with (
        aiohttp.ClientSession() as http,
        http.post(url + path, data=raw, headers={"content-type": "application/json", **headers}) as answer,
    ):
        return answer.status, await (answer.json() if answer.content_type == "application/json" else answer.read())


def reason(error: dict[str, Any] | None) -> str:
    """The stable reason of an error as Connect writes it; "" for none."""
    details = [] if error is None else error["details"]
    return next((d["debug"]["reason"] for d in details if d["type"] == "google.rpc.ErrorInfo"), "")
