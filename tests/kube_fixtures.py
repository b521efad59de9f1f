"""A Kubernetes API server in memory, with a RayService, its pods and nodes; evictions and proxies as the real one has them."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from kmock import KubernetesEmulator, KubernetesError, Server
from kubernetes import client
from typer.testing import CliRunner

from liveact_services.cli.main import app
from liveact_services.cluster.api import Kube

NAMESPACE = "avatars"
SERVICE = "avatars-liveact"
ACTIVE = f"{SERVICE}-abcde"
GROUPS = (("cpu", None, 1, 1, 1), ("gpu", "default", 2, 1, 4))
"""Name, pool, replicas, fewest, most."""


class FakeCluster:
    """What the API server holds, changed and read from any thread."""

    def __init__(self, api: KubernetesEmulator, loop: asyncio.AbstractEventLoop, url: str) -> None:
        self._api, self._loop, self.url = api, loop, url
        self.evicted: list[str] = []
        self.budget: Callable[[str], bool] = lambda pod: True
        """Whether a disruption budget lets a pod go."""
        self.lingers = False
        """Whether an evicted pod stays for its preStop."""
        self.metrics: dict[str, str | Callable[[], str]] = {}
        """What a pod's metrics port answers; a pod that is not here does not."""
        self.dashboard: Callable[[str, dict[str, str], str], bytes] | None = None
        """(path, query, token) -> what Ray's dashboard answers."""

    def kube(self) -> Kube:
        return Kube(NAMESPACE, client.ApiClient(client.Configuration(host=self.url)))

    def put(self, kind: str, name: str, found: dict[str, Any], namespace: str | None = NAMESPACE) -> None:
        meta = {**found.get("metadata", {}), "name": name, **({"namespace": namespace} if namespace else {})}
        found = {**found, "metadata": meta}
        self._now(lambda: self._api.objects.__setitem__((kind, namespace, name), found))

    def get(self, kind: str, name: str, namespace: str | None = NAMESPACE) -> dict[str, Any]:
        return self._now(lambda: dict(self._api.objects[kind, namespace, name].last.raw))

    def status(self, kind: str, name: str, status: dict[str, Any]) -> None:
        """What an operator writes: the object's other half is whoever else's."""

        def write() -> None:
            self._api.objects[kind, NAMESPACE, name].patch({"status": None})
            self._api.objects[kind, NAMESPACE, name].patch({"status": status})

        self._now(write)

    def remove(self, pod: str) -> None:
        self.delete("v1/pods", pod)

    def delete(self, kind: str, name: str) -> None:
        self._now(lambda: self._api.objects[kind, NAMESPACE, name].delete())

    def node(self, name: str, **spec: Any) -> None:
        self.put(
            "v1/nodes", name, {"spec": spec, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}, None
        )

    def pod(
        self,
        name: str,
        node: str,
        group: str = "gpu",
        head: bool = False,
        cluster: str = ACTIVE,
        ready: bool = True,
        **status: Any,
    ) -> None:
        labels = {"ray.io/cluster": cluster, "ray.io/group": group, "ray.io/node-type": "head" if head else "worker"}
        containers = [{"name": "ray", "image": "x"}]
        self.put(
            "v1/pods", name,
            {"metadata": {"labels": labels}, "spec": {"nodeName": node, "containers": containers},
             "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}], **status}},
        )  # fmt: skip

    def service(self, name: str = SERVICE, autoscaled: bool = False, **status: Any) -> None:
        groups = [
            {"groupName": group, "replicas": replicas, "minReplicas": fewest, "maxReplicas": most,
             "labels": {"liveact-kind": "gpu" if pool else "cpu", **({"liveact-pool": pool} if pool else {})}}
            for group, pool, replicas, fewest, most in GROUPS
        ]  # fmt: skip
        ready = {
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "UpgradeInProgress", "status": "False"}],
            "activeServiceStatus": {"rayClusterName": f"{name}-abcde"}, "pendingServiceStatus": {},
        }  # fmt: skip
        cluster = {"enableInTreeAutoscaling": autoscaled, "workerGroupSpecs": groups}
        self.put("ray.io/v1/rayservices", name, {"spec": {"rayClusterConfig": cluster}, "status": {**ready, **status}})

    # ---- what kmock leaves open

    def evict(self, request: Any) -> Any:
        name = str(request.url.path).split("/")[-2]
        if not self.budget(name):
            raise KubernetesError(429, message="Cannot evict pod as it would violate the pod's disruption budget.")
        self.evicted.append(name)
        pod = self._api.objects["v1/pods", NAMESPACE, name]
        if self.lingers:
            pod.patch({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
        else:
            pod.delete()
        return {"kind": "Status", "status": "Success"}

    def proxy(self, request: Any) -> Any:
        target, _, path = str(request.url.path).split(f"/namespaces/{NAMESPACE}/")[1].partition("/proxy/")
        kind, _, name = target.partition("/")
        if kind == "pods":
            if (told := self.metrics.get(name.removesuffix(":8080"))) is None:
                raise KubernetesError(503, message="no endpoints available")
            return (told if isinstance(told, str) else told()).encode()
        if self.dashboard is None:
            raise KubernetesError(503, message="no endpoints available")
        return self.dashboard(path, dict(request.url.query), request.headers.get("X-Ray-Authorization", ""))

    def _now(self, work: Callable[[], Any]) -> Any:
        async def run() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)


@contextmanager
def fake_cluster() -> Iterator[FakeCluster]:
    """An API server on a port of its own: two nodes with a worker each, and the head with a third worker on the first."""
    started, stop = threading.Event(), threading.Event()
    made: list[FakeCluster] = []

    async def serve() -> None:
        async with KubernetesEmulator() as api, Server(api) as server:
            for kind in ("v1/nodes", "v1/pods", "v1/secrets", "ray.io/v1/rayservices", "ray.io/v1/rayclusters"):
                api.resources[kind] = {}
            fake = FakeCluster(api, asyncio.get_running_loop(), str(server.url).rstrip("/"))

            api["post", re.compile(r"/api/v1/namespaces/[^/]+/pods/[^/]+/eviction")] << fake.evict
            api["get", re.compile(r"/api/v1/namespaces/[^/]+/(pods|services)/[^/]+/proxy/.*")] << fake.proxy
            made.append(fake)
            started.set()
            while not stop.is_set():
                await asyncio.sleep(0.02)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert started.wait(20)
    fake = made[0]
    fake.service()
    fake.node("one")
    fake.node("two")
    fake.pod("head", "one", "", head=True)
    fake.pod("cpu-1", "one", "cpu")
    fake.pod("gpu-1", "one")
    fake.pod("gpu-2", "two")
    try:
        yield fake
    finally:
        stop.set()
        thread.join(10)


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with fake_cluster() as fake:
        yield fake


def kubeconfig(cluster: FakeCluster, path: Path) -> Path:
    """A file by which commands reach that server."""
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": cluster.url}}],
        "users": [{"name": "u", "user": {"token": "secret-token"}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": NAMESPACE}}],
    }  # fmt: skip
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def run(cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The command with a kubeconfig of that server."""
    path = kubeconfig(cluster, tmp_path / "kubeconfig")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))

    def invoke(*words: str, code: int = 0) -> Any:
        done = CliRunner().invoke(app, ["cluster", *words])
        assert done.exit_code == code, done.output
        return json.loads(done.stdout.splitlines()[-1]) if "--json" in words else done.output

    return invoke
