"""The bridge's HTTP side: WHIP's verbs (RFC 9725), whose answer here also sends media back, and a page that uses them."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from liveact.v1 import avatar_pb2 as pb2
from liveact_services.adapters.webrtc.call import Call, OfferError
from liveact_services.adapters.webrtc.gate import GateRules
from liveact_services.client import AvatarClient, ClientError
from liveact_services.http_status import http_status

PAGE = Path(__file__).parent / "page.html"
SDP = "application/sdp"
MAX_OFFER_BYTES = 64 * 1024
RETRY_S = 5
"""After which who found the bridge full is told to come back."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BridgeRules:
    """How a bridge serves."""

    server: str
    """HOST:PORT of the service."""
    portrait: bytes | str | None = None
    """Whose face it is where a viewer names none: an image's bytes, or "avatars/{id}"."""
    token: str = ""
    """What a viewer without credentials calls with; empty: such a viewer has none."""
    size: tuple[int, int] = (0, 0)
    codec: pb2.VideoCodec = pb2.VIDEO_CODEC_H264
    """How frames travel from the service to the bridge, which encodes them anew."""
    max_calls: int = 16
    """Viewers at once: each costs an encoder here."""
    ice: tuple[str, ...] = ()
    """URLs of STUN or TURN servers."""
    origins: tuple[str, ...] = ()
    """Sites whose pages may call it, beside its own."""
    gate: GateRules = field(default_factory=GateRules)


class Bridge:
    """The calls of one process, and the routes by which they begin and end."""

    def __init__(self, rules: BridgeRules) -> None:
        self._rules = rules
        self._calls: dict[str, Call] = {}
        self._opening = 0

    @property
    def calls(self) -> int:
        """Viewers now."""
        return len(self._calls) + self._opening

    def app(self) -> Starlette:
        routes = [
            Route("/", self._page),
            Route("/healthz", self._health),
            Route("/whip", self._begin, methods=["POST"]),
            Route("/whip/{call}", self._end, methods=["DELETE"]),
        ]
        cors = Middleware(
            CORSMiddleware, allow_origins=list(self._rules.origins), allow_methods=["POST", "DELETE"],
            allow_headers=["authorization", "content-type"], expose_headers=["location"],
        )  # fmt: skip
        return Starlette(routes=routes, middleware=[cors])

    async def close(self) -> None:
        """End every call."""
        await asyncio.gather(*(call.end() for call in list(self._calls.values())))

    async def _page(self, request: Request) -> Response:
        return FileResponse(PAGE, headers={"cache-control": "no-cache"})

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"calls": self.calls, "max_calls": self._rules.max_calls})

    async def _begin(self, request: Request) -> Response:
        if self.calls >= self._rules.max_calls:
            text = f"{self.calls} viewers are here: accepted are {self._rules.max_calls} at once"
            return _refusal(503, "CAPACITY", text, RETRY_S)
        self._opening += 1
        try:
            return await self._opened(request)
        except OfferError as error:
            return _refusal(400, "OFFER", str(error))
        except ClientError as error:
            # A proxy or the network says nothing of a reason.
            reason = error.reason or error.code.name
            return _refusal(http_status(error.code), reason, error.message, error.retry_after_s)
        finally:
            self._opening -= 1

    async def _opened(self, request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip() != SDP:
            raise OfferError(f"content-type {request.headers.get('content-type')!r}: accepted is {SDP}")
        offer = await _body(request)
        options = _options(request, self._rules)
        client = AvatarClient(self._rules.server, token="", metadata=_credentials(request, self._rules))
        call = await Call.open(
            client, _portrait(request, self._rules), options, ice=self._rules.ice, gate=self._rules.gate
        )
        try:
            answer = await call.answer(offer)
        except BaseException:
            await call.end()
            raise
        name = call.name.rpartition("/")[2]
        self._calls[name] = call
        call.when_over(lambda: self._calls.pop(name, None))
        log.info("%s for a viewer from %s", call.name, request.client.host if request.client else "?")
        return Response(answer, 201, {"location": f"/whip/{name}", "accept-post": SDP}, SDP)

    async def _end(self, request: Request) -> Response:
        call = self._calls.get(request.path_params["call"])
        if call is None:
            return _refusal(404, "NOT_FOUND", "no such call is here; it may have ended")
        await call.end()
        return Response(status_code=200)


async def _body(request: Request) -> str:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_OFFER_BYTES:
            raise OfferError(f"the offer is longer than {MAX_OFFER_BYTES} bytes, which is most that is accepted")
    return body.decode("utf-8", "replace")


def _portrait(request: Request, rules: BridgeRules) -> bytes | str:
    avatar = request.query_params.get("avatar")
    if avatar is not None and not avatar.startswith("avatars/"):
        raise OfferError(f"avatar {avatar!r}: accepted is the name of one that was created, avatars/ID")
    portrait = avatar or rules.portrait
    if portrait is None:
        raise OfferError("no face was asked for and the bridge has none of its own: accepted is ?avatar=avatars/ID")
    return portrait


def _options(request: Request, rules: BridgeRules) -> dict[str, Any]:
    asked = request.query_params
    options: dict[str, Any] = {name: asked[name] for name in ("prompt", "consent") if name in asked}
    try:
        size = tuple(int(side) for side in asked["size"].split("x")) if "size" in asked else rules.size
        options |= {name: int(asked[name]) for name in ("fps", "seed") if name in asked}
    except ValueError:
        size = ()
    if len(size) != 2:
        raise OfferError("size, fps or seed is no number: accepted are size=512x512, fps=20 and seed=1")
    return {**options, "size": size, "codec": rules.codec}


def _credentials(request: Request, rules: BridgeRules) -> tuple[tuple[str, str], ...]:
    """The viewer's own, which go with the call as they came; else the bridge's."""
    if (told := request.headers.get("authorization")) is not None:
        return (("authorization", told),)
    return (("authorization", f"Bearer {rules.token}"),) if rules.token else ()


def _refusal(status: int, reason: str, message: str, retry_after_s: float | None = None) -> JSONResponse:
    headers = {} if retry_after_s is None else {"retry-after": str(max(1, round(retry_after_s)))}
    return JSONResponse({"reason": reason, "message": message}, status, headers)
