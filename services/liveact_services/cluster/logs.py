"""What the replicas logged, through Ray's dashboard: each writes files on its own pod, which no pod's own log shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from liveact_services.cluster.api import DASHBOARD_PORT, ClusterError

if TYPE_CHECKING:
    from liveact_services.cluster.api import Kube
    from liveact_services.cluster.objects import RayService

AUTHORIZATION = "X-Ray-Authorization"
"""Ray's header for a token where another already needs Authorization."""
FOLDER = "serve"
"""Where Serve's logs are, below those of a node."""


def read_logs(
    kube: Kube, service: RayService, token: str, deployment: str | None, lines: int
) -> Iterator[tuple[str, str]]:
    """(file, line) of every log of a deployment, or of Serve altogether, node by node. Raises `ClusterError`."""
    for cluster in service.clusters:
        head = _Dashboard(kube, f"services/{cluster}-head-svc:{DASHBOARD_PORT}", token)
        for node in head.nodes():
            for file in head.files(node):
                if deployment is None or f"_{deployment}_" in file:
                    for line in head.lines(node, file, lines):
                        yield file.removeprefix(f"{FOLDER}/"), line


class _Dashboard:
    """Ray's dashboard, by way of the Kubernetes API."""

    def __init__(self, kube: Kube, target: str, token: str) -> None:
        self._kube, self._target, self._token = kube, target, token

    def nodes(self) -> list[str]:
        """Ids of the Ray nodes that live."""
        found = self._json("nodes", [("view", "summary")])["summary"]
        return [one["raylet"]["nodeId"] for one in found if one["raylet"].get("state") == "ALIVE"]

    def files(self, node: str) -> list[str]:
        """Serve's logs on a node."""
        found = self._json("api/v0/logs", [("node_id", node), ("glob", f"{FOLDER}/*")])["result"]
        return sorted(file for files in found.values() for file in files if file.endswith(".log"))

    def lines(self, node: str, file: str, count: int) -> list[str]:
        """The last lines of a file."""
        query = [("node_id", node), ("filename", file), ("lines", count), ("format", "leading_1")]
        text = self._get("api/v0/logs/file", query).decode(errors="replace")
        # Each chunk of the stream begins with 1; 0 begins an error.
        return [line for line in text.removeprefix("1").splitlines() if line]

    def _json(self, path: str, query: list[tuple[str, Any]]) -> Any:
        answer = json.loads(self._get(path, query))
        if answer.get("result") is False:
            raise ClusterError(f"Ray's dashboard refuses {path}: {answer.get('msg')}")
        return answer["data"]

    def _get(self, path: str, query: list[tuple[str, Any]]) -> bytes:
        return self._kube.through(self._target, path, query, **{AUTHORIZATION: f"Bearer {self._token}"})
