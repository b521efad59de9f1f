"""How a call tells its client that it failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.grpc_util import RayServegRPCContext

    from liveact_services.errors import ServiceError


def set_status(context: RayServegRPCContext, error: ServiceError) -> None:
    """Code, message and details; they travel with the next message."""
    context.set_code(error.code)
    context.set_details(error.message)
    # Serve types it as text; a key that ends in -bin carries bytes.
    trailer: Any = error.trailing_metadata()
    context.set_trailing_metadata(trailer)
