"""The way of a measurement out of this process. It costs microseconds, and whatever happens to it, no stream notices."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from liveact_services.observability.metrics import Kind, Metric
from liveact_services.observability.tenant_names import TenantNames

Record = Callable[[float, dict[str, str]], None]
"""Takes a value and its labels."""

log = logging.getLogger(__name__)


class Meter:
    """This process's instruments, made when they are first used. Before `start` measurements go nowhere."""

    def __init__(self) -> None:
        self._make: Callable[[Metric], Record] | None = None
        self._records: dict[Metric, Record] = {}
        self._told = False
        self._tenants = TenantNames(0)

    def start(self, make: Callable[[Metric], Record] | None, max_tenants: int = 0) -> None:
        """Record with what `make` gives for each metric; None: nothing more. `max_tenants`: those that are named."""
        self._make, self._records, self._told = make, {}, False
        self._tenants = TenantNames(max_tenants)

    def tenant(self, tenant: str) -> str:
        """The label for a tenant."""
        return self._tenants.label(tenant)

    def record(self, metric: Metric, value: float = 1.0, **labels: str) -> None:
        """Count, set or observe; all the metric's labels are to be named. From any thread; never raises."""
        if self._make is None:
            return
        try:
            record = self._records.get(metric)
            if record is None:
                record = self._records[metric] = self._make(metric)
            record(value, labels)
        except Exception:
            if not self._told:
                # Once: what cannot be recorded now will not be the next thousand times.
                self._told = True
                log.exception("%s cannot be recorded", metric.name)


def ray_record(metric: Metric) -> Record:
    """Into Ray's metrics, with Serve's labels where this process is a replica."""
    from ray.serve import metrics as serve

    common: dict[str, Any] = {"name": metric.name, "description": metric.help, "tag_keys": metric.labels}
    if metric.kind is Kind.HISTOGRAM:
        return serve.Histogram(**common, boundaries=list(metric.buckets)).observe
    if metric.kind is Kind.GAUGE:
        return serve.Gauge(**common).set
    counter = serve.Counter(**common)

    def count(value: float, labels: dict[str, str]) -> None:
        # Ray refuses to count nothing.
        if value > 0:
            counter.inc(value, labels)

    return count


METER = Meter()
"""The process's one, as its loggers are."""
