"""What a replica does first: have a place for its logs, metrics and spans."""

from __future__ import annotations

from typing import TYPE_CHECKING

from liveact_services.observability.logs import join_serve_log
from liveact_services.observability.meter import METER, ray_record
from liveact_services.observability.tracing import TRACING

if TYPE_CHECKING:
    from liveact_services.observability.config import TelemetryConfig


def observe_process(telemetry: TelemetryConfig, service: str) -> None:
    """Log where Serve does, give metrics to Ray, send spans where the configuration says. `service`: the deployment."""
    join_serve_log()
    METER.start(ray_record if telemetry.metrics else None, telemetry.max_tenants)
    TRACING.start(telemetry, service)
