"""Spans of this process: where a block's time went, in the trace of whoever asked for it.

Serve carries no trace from call to call, so calls do: as W3C traceparents, `trace` among their arguments. "" stands for no
trace; one whose flag says that it is not sampled costs nothing but is known to the logs. What is said of a span are numbers and
ids, never a prompt, a voice or a key.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer

    from liveact_services.observability.config import TelemetryConfig

HEADER = "traceparent"
"""The key of a call's metadata; its value looks like 00-{32 hex: trace}-{16 hex: span}-01."""
Value = str | int | float | bool

log = logging.getLogger(__name__)


def sampled(trace: str) -> bool:
    """Whether spans are wanted for this traceparent."""
    return trace.endswith("1")


class Span:
    """Something under way. `trace` is what its children's calls carry."""

    def __init__(self, trace: str, span: OtelSpan | None = None) -> None:
        self.trace, self._span = trace, span

    def end(self, error: BaseException | None = None, **attributes: Value) -> None:
        """It is over, now; ending it twice is no error."""
        span, self._span = self._span, None
        if span is None:
            return
        span.set_attributes(_named(attributes))
        if error is not None:
            from opentelemetry.trace import StatusCode

            # The class alone: a message may quote what a client sent.
            span.set_status(StatusCode.ERROR, type(error).__name__)
        span.end()


NO_SPAN = Span("")


class Tracing:
    """This process's spans and where they go. Before `start`, and where nothing is configured, nowhere."""

    def __init__(self) -> None:
        self._config: TelemetryConfig | None = None
        self._provider: TracerProvider | None = None
        self._tracer: Tracer | None = None

    def start(self, config: TelemetryConfig, service: str) -> None:
        """Send spans as configured, said to be of this service."""
        self.stop()
        self._config = config
        if not config.traces:
            return
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

        from liveact_services.observability.spans import exporters

        # What stands in the environment for other programs' traces says nothing about this one's.
        resource = Resource({"service.name": f"liveact.{service}", "service.namespace": "liveact"})
        provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(config.sample_ratio)), resource=resource)
        try:
            for exporter in exporters(config, service):
                provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
        except Exception:
            # Sessions are served all the same.
            log.exception("this process sends no spans")
            return
        self._provider, self._tracer = provider, provider.get_tracer("liveact")

    def stop(self) -> None:
        """Send what waits, and then nothing more."""
        if self._provider is not None:
            self._provider.shutdown()
        self._config = self._provider = self._tracer = None

    # ---- spans -------------------------------------------------------------------------------------------------------------

    def root(self, name: str, metadata: Mapping[str, str], **attributes: Value) -> Span:
        """The span of a client's call: in the client's trace where it has one, sampled as that says or as configured."""
        theirs = _checked(metadata.get(HEADER, ""))
        if self._tracer is None or self._config is None:
            # The logs know it all the same.
            return Span(f"{theirs[:-2]}00" if theirs else "")
        if theirs and not self._config.follow_clients:
            return self._decided_here(name, theirs, attributes)
        return self._begin(self._tracer, name, theirs, None, attributes)

    def begin(self, name: str, parent: str, began_ns: int | None = None, **attributes: Value) -> Span:
        """A span from now, or that moment (unix time), until it is ended."""
        if self._tracer is None or not sampled(parent):
            return Span(parent)
        return self._begin(self._tracer, name, parent, began_ns, attributes)

    def block(self, parent: str, block: int, **attributes: Value) -> Span:
        """The span of one block of a session, if this block is to be traced."""
        if self._config is None or block % self._config.every_blocks:
            return NO_SPAN
        return self.begin("block", parent, None, block=block, **attributes)

    @contextmanager
    def span(self, name: str, parent: str, **attributes: Value) -> Iterator[str]:
        """A span around what is done inside; gives what its children carry."""
        span = self.begin(name, parent, None, **attributes)
        try:
            yield span.trace
        except BaseException as error:
            span.end(error)
            raise
        span.end()

    def record(self, name: str, parent: str, began_ns: int, ended_ns: int, **attributes: Value) -> str:
        """A span that is over already; gives what its children carry."""
        if self._tracer is None or not sampled(parent):
            return parent
        span = self._tracer.start_span(
            name, context=_context(parent), start_time=began_ns, attributes=_named(attributes)
        )
        span.end(ended_ns)
        return _traceparent(span)

    def _begin(
        self, tracer: Tracer, name: str, parent: str, began_ns: int | None, attributes: Mapping[str, Value]
    ) -> Span:
        span = tracer.start_span(name, context=_context(parent), start_time=began_ns, attributes=_named(attributes))
        return Span(_traceparent(span), span)

    def _decided_here(self, name: str, theirs: str, attributes: Mapping[str, Value]) -> Span:
        """In the client's trace, but sampled by our own ratio, which is a function of the trace's id."""
        assert self._config is not None
        assert self._tracer is not None
        from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

        bound = TraceIdRatioBased.get_bound_for_rate(self._config.sample_ratio)
        wanted = int(theirs.split("-")[1], 16) & TraceIdRatioBased.TRACE_ID_LIMIT < bound
        return self._begin(self._tracer, name, f"{theirs[:-2]}{'01' if wanted else '00'}", None, attributes)


def now_ns() -> int:
    """Unix time, as spans have it."""
    return time.time_ns()


def _checked(trace: str) -> str:
    """The traceparent, or "" for what is none."""
    from opentelemetry.trace import get_current_span

    return _traceparent(get_current_span(_context(trace))) if trace else ""


def _context(trace: str) -> Context:
    """The context a traceparent stands for; an empty one for what is no traceparent."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({HEADER: trace}, Context())


def _traceparent(span: OtelSpan) -> str:
    context = span.get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags.sampled):02x}"


def _named(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {f"liveact.{name}": value for name, value in attributes.items()}


TRACING = Tracing()
"""The process's one, as its loggers are."""
