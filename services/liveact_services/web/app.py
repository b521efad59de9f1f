"""The routes of the HTTP port: the page's files, what it must know, the unary calls and the stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from liveact_services.web.calls import SERVICE, unary
from liveact_services.web.schema import schema
from liveact_services.web.socket import stream
from liveact_services.web.speech import Speaker, speech

FILES = Path(__file__).parent / "files"
HEADERS = {
    # The page runs its own files and nothing else; it may be shown in nobody's frame.
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    # Another version of the service is another page: browsers ask, and mostly hear that nothing has changed.
    "cache-control": "no-cache",
}


def console(service: Any) -> Starlette:
    """The application. `service` has the methods of `AvatarService`, as the Gateway has."""
    speaker = Speaker()

    async def about(request: Request) -> JSONResponse:
        """What the page asks first: how messages are written, which portraits come with it, whether it can speak text."""
        portraits = sorted(path.stem for path in (FILES / "portraits").glob("*.jpg"))
        return JSONResponse({"schema": schema(), "portraits": portraits, "speech": speaker.installed})

    routes = [
        Route("/console.json", about),
        Route("/speech", speech(service, speaker), methods=["POST"]),
        Route(f"/{SERVICE}/{{method}}", unary(service), methods=["POST"]),
        WebSocketRoute(f"/{SERVICE}/StreamAvatar", stream(service)),
        Mount("/", StaticFiles(directory=FILES, html=True)),
    ]
    return Starlette(routes=routes, middleware=[Middleware(_Headers)])


class _Headers:
    """Puts `HEADERS` on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        await self._app(scope, receive, answer)
