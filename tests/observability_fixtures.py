"""The shipped dashboards and rules as tests read them, and a meter that keeps what it is given."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from conftest import ROOT
from liveact_services.observability.config import TelemetryConfig
from liveact_services.observability.metrics import Metric
from liveact_services.observability.tracing import TRACING

SHIPPED = ROOT / "services" / "liveact_services" / "observability"
RULES = SHIPPED / "alerts" / "liveact.yaml"
NAME = re.compile(r"\b(?:ray_liveact_\w+|liveact:[\w:]+)")
SELECTOR = re.compile(r"(ray_liveact_\w+)(?:\{([^}]*)\})?")
GROUPING = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
LEGEND = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True)
class Query:
    """One expression, and where it stands."""

    where: str
    expr: str
    legend: str = ""

    @property
    def names(self) -> set[str]:
        return set(NAME.findall(self.expr))

    @property
    def labels(self) -> dict[str, set[str]]:
        """The labels that are matched, by metric."""
        found: dict[str, set[str]] = {}
        for name, matchers in SELECTOR.findall(self.expr):
            found.setdefault(name, set()).update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        return found

    @property
    def grouped(self) -> set[str]:
        """The labels that are kept and shown."""
        kept = {label.strip() for group in GROUPING.findall(self.expr) for label in group.split(",")}
        return {label for label in kept if label} | set(LEGEND.findall(self.legend))

    def plain(self) -> str:
        """As Prometheus takes it: the dashboard's variables filled in."""
        return self.expr.replace("$__rate_interval", "2m").replace("$pool", ".*")


def dashboards() -> Iterator[Query]:
    for path in sorted((SHIPPED / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                yield Query(f"{path.name}: {panel['title']}", target["expr"], target["legendFormat"])


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def rule_queries() -> Iterator[Query]:
    for rule in rules():
        yield Query(rule.get("record") or rule["alert"], rule["expr"])


class Collected:
    """Stands where Ray's metrics do."""

    def __init__(self) -> None:
        self.values: list[tuple[str, float, dict[str, str]]] = []

    def make(self, metric: Metric) -> Any:
        def record(value: float, labels: dict[str, str]) -> None:
            assert set(labels) == set(metric.labels), f"{metric.name}: {labels}"
            self.values.append((metric.name.removeprefix("liveact_"), value, labels))

        return record

    def total(self, name: str, **labels: str) -> float:
        return sum(v for n, v, own in self.values if n == name and labels.items() <= own.items())

    def count(self, name: str, **labels: str) -> int:
        return sum(n == name and labels.items() <= own.items() for n, _, own in self.values)


CLIENT = f"00-{'ab' * 16}-{'cd' * 8}-01"
"""A client's traceparent."""


@contextmanager
def tracing_into(folder: Path) -> Iterator[None]:
    """This process's spans go into the folder, and are all there at the end."""
    TRACING.start(TelemetryConfig(trace_dir=folder), "Test")
    try:
        yield
    finally:
        TRACING.stop()
