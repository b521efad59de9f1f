"""Whole clusters on this machine, each a process of `liveact serve` with a Ray of its own, that share a Redis."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

from liveact_services.service import free_port

START_S = 240.0


class LocalCluster:
    """One cluster: starting until `address` is known, or until it has failed."""

    def __init__(self, name: str, redis_url: str, folder: Path, **settings: Any) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        self.address = ""
        """host:port once it serves."""
        self._metrics = free_port()
        settings = {**settings, "telemetry.metrics_port": self._metrics}
        words = [
            f"--set={key}={json.dumps(value) if isinstance(value, dict) else value}" for key, value in settings.items()
        ]
        environment = {**os.environ, "LIVEACT_CLUSTER": name, "LIVEACT_HTTP_PORT": "0"}
        self._err = self.log.open("w")
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "liveact_services.cli.main", "serve", "--port=0", f"--redis-url={redis_url}", "--json",
                f"--data-dir={folder}", *words,
            ],
            stdout=subprocess.PIPE, stderr=self._err, text=True, env=environment, start_new_session=True,
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        # One that fails says so in JSON, too.
        self.address = json.loads(line or "{}").get("grpc", "")

    def status(self) -> tuple[str, str]:
        """As Serve's status of the application, and why."""
        if self.failed:
            return "DEPLOY_FAILED", self.log.read_text().strip().splitlines()[-1]
        return ("RUNNING" if self.address else "DEPLOYING"), ""

    def metrics(self) -> str:
        """What Prometheus would scrape."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    @property
    def failed(self) -> bool:
        """Whether it has ended by itself."""
        return self._process.poll() not in (None, 0)

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._err.close()
