"""Our log lines: in the replica's file, with session and trace, as text or as JSON."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.serve.schema import LoggingConfig

    from liveact_services.observability.config import TelemetryConfig

REMEMBERED = 4096
"""Sessions whose traces a process remembers."""


class SessionTraces:
    """Which trace a session belongs to, as far as this process has heard."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, str] = OrderedDict()

    def note(self, session: str, trace: str) -> None:
        """`trace`: a traceparent of the session, or nothing."""
        if trace:
            self._ids[session] = trace.split("-")[1]
            self._ids.move_to_end(session)
            if len(self._ids) > REMEMBERED:
                self._ids.popitem(last=False)

    def trace_id(self, session: str) -> str | None:
        """32 hexadecimal digits; None for a session without a trace."""
        return self._ids.get(session)


TRACES = SessionTraces()


class AddTraceId(logging.Filter):
    """Gives a line that names a session its trace as well."""

    def filter(self, record: logging.LogRecord) -> bool:
        session = getattr(record, "session_id", None)
        if session is not None and (trace := TRACES.trace_id(session)) is not None:
            record.trace_id = trace
        return True


def join_serve_log() -> None:
    """Have our loggers write where Serve's own do: the replica's log file."""
    serve_log = logging.getLogger("ray.serve")
    for handler in serve_log.handlers:
        if not any(isinstance(one, AddTraceId) for one in handler.filters):
            handler.addFilter(AddTraceId())
    for name in ("liveact_services", "liveact_models"):
        ours = logging.getLogger(name)
        ours.handlers, ours.level, ours.propagate = serve_log.handlers, serve_log.level, False


def logging_config(telemetry: TelemetryConfig, *, access: bool) -> LoggingConfig:
    """Serve's, for a deployment or for Serve itself. `access`: whether every call has a line."""
    from ray.serve.schema import LoggingConfig

    return LoggingConfig(encoding=telemetry.log_format.upper(), enable_access_log=access)
