"""Where spans go, and how they are read again from a folder."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from liveact_services.observability.config import TelemetryConfig

SUFFIX = ".spans.jsonl"

log = logging.getLogger(__name__)


def exporters(config: TelemetryConfig, service: str) -> Iterator[SpanExporter]:
    """Those configured, for a process of this service."""
    if config.trace_dir is not None:
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        config.trace_dir.mkdir(parents=True, exist_ok=True)
        path = config.trace_dir / f"{service}-{os.getpid()}{SUFFIX}"
        # Open for as long as the process lives; lines go out whole, one flush a batch.
        lines = path.open("a", encoding="utf-8")
        yield ConsoleSpanExporter(out=lines, formatter=lambda span: span.to_json(indent=None) + "\n")
    if config.otlp_endpoint is not None:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        yield OTLPSpanExporter(endpoint=config.otlp_endpoint, insecure=config.otlp_endpoint.startswith("http://"))


@dataclass
class Spent:
    """A span as it was read, with its children in the order in which they began."""

    name: str
    service: str
    trace: str
    span: str
    parent: str
    began_s: float
    ended_s: float
    error: str
    attributes: dict[str, Any]
    children: list[Spent] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return self.ended_s - self.began_s

    def walk(self) -> Iterator[Spent]:
        """This one and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()


def read_spans(folder: Path) -> list[Spent]:
    """All spans of a folder, each with its children; a line that is cut off is passed over."""
    spans = list(_lines(sorted(folder.glob(f"*{SUFFIX}"))))
    by_id = {span.span: span for span in spans}
    for span in sorted(spans, key=lambda span: span.began_s):
        if (parent := by_id.get(span.parent)) is not None:
            parent.children.append(span)
    return spans


def blocks_of(spans: Sequence[Spent], trace: str | None = None, session: str | None = None) -> list[Spent]:
    """The blocks among the spans, in the order in which they were begun; of one trace or session, if named."""
    found = [
        span
        for span in spans
        if span.name == "block"
        and (trace is None or span.trace == trace)
        and (session is None or span.attributes.get("session") == session)
    ]
    return sorted(found, key=lambda span: span.began_s)


def _lines(paths: Iterable[Path]) -> Iterator[Spent]:
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                told = json.loads(line)
            except ValueError:
                # Its process was ended in the middle of it.
                log.debug("%s: a line that is no span", path)
                continue
            yield _read(told)


def _read(told: dict[str, Any]) -> Spent:
    attributes = {name.removeprefix("liveact."): value for name, value in told["attributes"].items()}
    status = told["status"]
    return Spent(
        name=told["name"], service=told["resource"]["attributes"]["service.name"].removeprefix("liveact."),
        trace=told["context"]["trace_id"].removeprefix("0x"), span=told["context"]["span_id"].removeprefix("0x"),
        parent=(told["parent_id"] or "").removeprefix("0x"), began_s=_unix(told["start_time"]),
        ended_s=_unix(told["end_time"]), attributes=attributes,
        error=status.get("description", "error") if status["status_code"] == "ERROR" else "",
    )  # fmt: skip


def _unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
