"""What KubeRay does with a RayService, as far as an upgrade shows it: a cluster for another configuration, then the switch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from kube_fixtures import SERVICE, FakeCluster
from liveact_services.cluster.objects import SERVICE_LABEL

GOOD, BETTER, BAD, CRASHING = "liveact:1", "liveact:2", "liveact:bad", "liveact:crashing"
LOOK_S = 0.05


class Underneath(Protocol):
    """A cluster as its own processes have it."""

    def status(self) -> tuple[str, str]:
        """As Serve says it of the application: (status, message); RUNNING is when it serves."""

    def stop(self) -> None:
        """End it."""


class Pretended:
    """A cluster of which there is nothing but what is told."""

    takes_s = 0.3
    """Until it serves."""

    def __init__(self, name: str, image: str) -> None:
        self.image, self.began = image, time.monotonic()
        self.stopped = False

    def status(self) -> tuple[str, str]:
        if self.image == BAD:
            return "DEPLOY_FAILED", "Denoiser did not start: no such checkpoint"
        return (
            ("DEPLOYING", "")
            if self.image == CRASHING or time.monotonic() - self.began < self.takes_s
            else ("RUNNING", "")
        )

    def stop(self) -> None:
        self.stopped = True


def config_of(image: str) -> dict[str, Any]:
    """A rayClusterConfig with the containers that matter."""

    def pod() -> dict[str, Any]:
        return {"spec": {"containers": [{"name": "ray", "image": image}, {"name": "side", "image": "other:1"}],
                         "initContainers": [{"name": "weights", "image": image}]}}  # fmt: skip

    workers = [
        {"groupName": "cpu", "replicas": 1, "minReplicas": 1, "maxReplicas": 1, "template": pod()},
        {"groupName": "gpu", "replicas": 1, "minReplicas": 1, "maxReplicas": 4, "template": pod(),
         "labels": {"liveact-pool": "default"}},
    ]  # fmt: skip
    return {"headGroupSpec": {"template": pod()}, "workerGroupSpecs": workers}


class Slow(Pretended):
    """One that is still coming when somebody begins to watch it."""

    takes_s = 8.0


class FakeKubeRay:
    """The operator: a thread that looks at the RayService and does what KubeRay would."""

    def __init__(self, api: FakeCluster, start: Callable[[str, str], Underneath] = Pretended) -> None:
        self.api, self._start = api, start
        self.running: dict[str, Underneath] = {}
        self.active = self.pending = ""
        self.switched: Callable[[str], None] = lambda name: None
        """Called with the cluster that serves from now on."""
        self._configs: dict[str, dict[str, Any]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> FakeKubeRay:
        self.api.put("ray.io/v1/rayservices", SERVICE, {"spec": {"rayClusterConfig": config_of(GOOD)}, "status": {}})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        for cluster in self.running.values():
            cluster.stop()

    def until_serving(self, within_s: float) -> None:
        until = time.monotonic() + within_s
        while not self.active:
            assert time.monotonic() < until
            time.sleep(LOOK_S)

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(LOOK_S):
            wanted = self.api.get("ray.io/v1/rayservices", SERVICE)["spec"]["rayClusterConfig"]
            if self.pending and wanted != self._configs[self.pending]:
                self._drop(self.pending)
                self.pending = ""
            if not self.pending and wanted != self._configs.get(self.active):
                number += 1
                self.pending = f"{SERVICE}-{number:05d}"
                self._make(self.pending, wanted)
            if self.pending and self.running[self.pending].status()[0] == "RUNNING":
                self.active, self.pending = self.pending, ""
                self.api.pod(f"{self.active}-worker", "two", cluster=self.active)
                self.switched(self.active)
            self._tell()

    def _make(self, name: str, config: dict[str, Any]) -> None:
        image = config["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
        self._configs[name], self.running[name] = config, self._start(name, image)
        self.api.put("ray.io/v1/rayclusters", name, {"metadata": {"labels": {SERVICE_LABEL: SERVICE}}, "spec": config})
        waiting = {"containerStatuses": [{
            "name": "ray", "image": image, "imageID": "", "ready": False, "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        }]} if image == CRASHING else {}  # fmt: skip
        self.api.pod(f"{name}-worker", "two", cluster=name, ready=False, **waiting)

    def _drop(self, name: str) -> None:
        self.running.pop(name).stop()
        self.api.remove(f"{name}-worker")
        self.api.delete("ray.io/v1/rayclusters", name)

    def _tell(self) -> None:
        status = {"activeServiceStatus": self._status(self.active), "pendingServiceStatus": self._status(self.pending)}
        self.api.status("ray.io/v1/rayservices", SERVICE, {"conditions": [], **status})

    def _status(self, name: str) -> dict[str, Any]:
        if not name:
            return {}
        status, message = self.running[name].status()
        return {"rayClusterName": name, "applicationStatuses": {"liveact": {"status": status, "message": message}}}
