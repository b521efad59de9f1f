"""A service's metrics as Prometheus sees them: Ray's endpoint, and a Prometheus of the test's own that scrapes it."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray._private import worker

from liveact_services.service import free_port
from observability_fixtures import RULES

WITH_PROMETHEUS = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed: it is Debian's package of that name"
)


def endpoint() -> str:
    """host:port of the metrics of this machine's Ray."""
    (node,) = (node for node in ray.nodes() if node["Alive"])
    return f"127.0.0.1:{node['MetricsExportPort']}"


def scraped() -> str:
    """All that Ray's endpoint tells now."""
    with urllib.request.urlopen(f"http://{endpoint()}/metrics", timeout=20) as answer:
        return answer.read().decode()


async def until_scraped(*series: str, within_s: float = 60.0) -> None:
    """Wait until these names are there: Ray passes them on every ten seconds."""
    async with asyncio.timeout(within_s):
        while missing := [name for name in series if f"\n{name}{{" not in await asyncio.to_thread(scraped)]:
            assert missing
            await asyncio.sleep(1)


def log_lines() -> list[str]:
    """Every line of every log of this machine's Ray."""
    node: Any = worker._global_node
    files = (path for path in Path(node.get_logs_dir_path()).rglob("*") if path.is_file())
    return [line for path in files for line in path.read_text(errors="replace").splitlines()]


@dataclass(frozen=True)
class Prometheus:
    """A running one."""

    url: str

    def query(self, expr: str) -> list[Any]:
        """The vector an expression gives now. Raises `AssertionError` with what Prometheus says of a wrong one."""
        asked = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expr})}"
        try:
            with urllib.request.urlopen(asked, timeout=20) as answer:
                return json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expr}: {error.read().decode()}") from None


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """One that scrapes the target every five seconds and evaluates the shipped rules."""
    config = {
        "global": {"scrape_interval": "5s", "scrape_timeout": "5s", "evaluation_interval": "5s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    process = subprocess.Popen(
        ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
         f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"],
    )  # fmt: skip
    try:
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(30)
