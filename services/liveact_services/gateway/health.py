"""grpc.health.v1 at the Gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from grpc_health.v1 import health_pb2

if TYPE_CHECKING:
    from ray.serve.grpc_util import RayServegRPCContext


class Health:
    """Base of the Gateway: SERVING once a session has gone through every stage, and until this server stops."""

    _warm = False
    _leaving = False

    async def Check(
        self, request: health_pb2.HealthCheckRequest, grpc_context: RayServegRPCContext
    ) -> health_pb2.HealthCheckResponse:
        """The status now."""
        return health_pb2.HealthCheckResponse(status=self._health())

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, grpc_context: RayServegRPCContext
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status now, and whenever it changes."""
        last = None
        while True:
            if (status := self._health()) != last:
                last = status
                yield health_pb2.HealthCheckResponse(status=status)
            await asyncio.sleep(1)

    def _health(self) -> Any:
        serving = self._warm and not self._leaving
        return health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
