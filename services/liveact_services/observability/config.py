"""What is told, and to whom."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator


class TelemetryConfig(BaseModel):
    """Metrics, traces and logs (docs/observability.md)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metrics: bool = True
    """Whether replicas give metrics to Ray, which serves them to Prometheus on every node."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of Ray's metrics endpoint where `liveact serve` starts Ray; 0: any free one. A cluster's is set where Ray is."""
    max_tenants: Annotated[int, Field(ge=0, le=10_000)] = 100
    """Tenants that have a series of their own in a Gateway's metrics; those that come later are "other" together."""
    otlp_endpoint: str | None = None
    """Where spans go: the http://host:4317 of an OpenTelemetry collector (gRPC), https:// for TLS; none: nowhere."""
    trace_dir: Path | None = None
    """A folder for spans, a file of JSON lines a process, which `liveact trace` reads; for one machine."""
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the streams that are traced, of those whose client does not say by `traceparent`."""
    follow_clients: bool = True
    """Whether a client's sampling flag decides; else `sample_ratio` does for every stream."""
    every_blocks: Annotated[int, Field(ge=1)] = 1
    """Of a traced session every so manyth block is traced."""
    log_format: Literal["text", "json"] = "text"
    """Lines for people, or a JSON object a line with session_id and trace_id."""

    @field_validator("otlp_endpoint")
    @classmethod
    def _reachable(cls, endpoint: str | None) -> str | None:
        if endpoint is not None:
            parts = urlsplit(endpoint)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"{endpoint!r}: accepted is http://host:port or https://host:port")
        return endpoint

    @field_validator("trace_dir")
    @classmethod
    def _absolute(cls, folder: Path | None) -> Path | None:
        # Replicas have working folders of their own.
        return None if folder is None else folder.absolute()

    @property
    def traces(self) -> bool:
        """Whether spans go anywhere."""
        return self.otlp_endpoint is not None or self.trace_dir is not None
