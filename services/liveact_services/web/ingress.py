"""The Gateway with a door for browsers: the same process, the same methods, another transport."""

from __future__ import annotations

from typing import TYPE_CHECKING

from liveact_services.gateway.deployment import Gateway
from liveact_services.web.app import console

if TYPE_CHECKING:
    from starlette.applications import Starlette


class WebGateway(Gateway):
    """A `Gateway` that also answers on Serve's HTTP port."""

    def __serve_build_asgi_app__(self) -> Starlette:
        """What Serve asks for once the replica stands; every route calls this object's own gRPC methods."""
        return console(self)
