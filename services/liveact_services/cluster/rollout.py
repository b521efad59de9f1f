"""A RayService goes from one cluster to another, is watched while it does, and goes back where the other does not serve.

KubeRay makes the new cluster and points the Service at it once it serves; the watcher has sessions follow
(`cluster/succession.py`). What is added here is the judgement: until when to wait, what is a failure, and the way back.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from liveact_services.cluster.objects import POOL_LABEL

if TYPE_CHECKING:
    from liveact_services.cluster.api import Kube
    from liveact_services.cluster.objects import Pod, RayService

FAILED = frozenset({"DEPLOY_FAILED", "UNHEALTHY"})
"""Of an application, as Serve says; UNHEALTHY can pass, and so can a pod that crashes: they count when they last."""
APPEARS_S = 60.0
"""KubeRay makes a cluster within seconds, or finds nothing changed."""


class NothingChanges(Exception):
    """There is nothing to roll out; the message says why."""


@dataclass(frozen=True)
class Patience:
    """How long a rollout waits, in seconds."""

    serving_s: float = 1800.0
    """For the new cluster to serve: nodes, images, weights and warm-up."""
    failing_s: float = 120.0
    """For what fails to recover, before it counts as a failure."""
    settled_s: float = 60.0
    """For the new cluster to stay well, once it serves, before the rollout counts as a success."""
    sessions_s: float = 600.0
    """For sessions to leave the old cluster."""
    poll_s: float = 2.0


@dataclass
class Rollout:
    """One service's way from the cluster that served when it began to another."""

    kube: Kube
    service: RayService
    patience: Patience = field(default_factory=Patience)
    told: Callable[[str], None] = lambda text: None
    """A line whenever something has changed."""
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _failing_since: float | None = None

    def begin(self, config: dict[str, Any]) -> None:
        """Have KubeRay make a cluster of that configuration. Raises `NothingChanges` where it is the one that serves."""
        if config == self.kube.cluster_config(self.service):
            raise NothingChanges("the images are those of the cluster that serves")
        self.kube.exchange(self.service, config)
        self.told(f"{self.service.name}: another cluster is asked for, {self.service.active} serves meanwhile")

    def coming(self) -> str:
        """Wait for the new cluster to be made; gives its name. Raises `NothingChanges`."""
        until = self.now() + APPEARS_S
        while True:
            found = self._read()
            new = found.pending or (found.active if found.active != self.service.active else "")
            if new:
                self.told(f"{new} is coming")
                return new
            if self.now() >= until:
                raise NothingChanges(
                    f"KubeRay has made no other cluster beside {self.service.active}: nothing has changed"
                )
            self.sleep(self.patience.poll_s)

    def serves(self, new: str) -> str:
        """Wait until that cluster serves in place of the old one; why it does not, or nothing."""
        until, before = self.now() + self.patience.serving_s, ""
        while True:
            found = self._read()
            if found.active == new:
                self.told(f"{new} serves; {self.service.active or 'none'} served before")
                return ""
            if found.pending != new:
                return f"{new} is not coming any more: KubeRay says {found.pending or 'nothing'} is"
            pods = _of(new, self.kube.pods())
            state = f"{new}: {sum(pod.ready for pod in pods)} of {len(pods)} pods are ready"
            if state != before:
                self.told(state)
            before = state
            if why := self._fails(found, new, pods):
                return why
            if self.now() >= until:
                return f"{new} does not serve after {self.patience.serving_s:g} s"
            self.sleep(self.patience.poll_s)

    def settles(self, new: str) -> tuple[str, int]:
        """Watch sessions leave the old cluster and the new one stay well; why it does not, or nothing, and how many are left."""
        began, before = self.now(), -1
        while True:
            found = self._read()
            if found.active != new:
                return f"{found.active or 'nothing'} serves in place of {new}", max(before, 0)
            pods = self.kube.pods()
            if why := self._fails(found, new, _of(new, pods)):
                return why, max(before, 0)
            left = self._held(_of(self.service.active, pods))
            if left != before:
                self.told(f"{self.service.active} holds {left} sessions")
            before, waited = left, self.now() - began
            if waited >= self.patience.settled_s and (not left or waited >= self.patience.sessions_s):
                return "", left
            self.sleep(self.patience.poll_s)

    def back(self, config: dict[str, Any]) -> None:
        """Have the service be what it was: a cluster that does not serve yet is dropped, one that does is exchanged again."""
        self.kube.exchange(self.service, config)
        self.told(f"{self.service.name} goes back to the configuration of {self.service.active}")

    def sessions(self) -> int:
        """Sessions that the replicas of the cluster hold that served when it began."""
        return self._held(_of(self.service.active, self.kube.pods()))

    def _held(self, pods: list[Pod]) -> int:
        """Of the deployment that holds most: a parked session counts, since its decoder is held."""
        held: dict[str, int] = {}
        for pod in pods:
            for one in self.kube.sessions(pod) if pod.ready else ():
                held[one.deployment] = held.get(one.deployment, 0) + one.held
        return max(held.values(), default=0)

    def _read(self) -> RayService:
        return self.kube.ray_service(self.service.name)

    def _fails(self, found: RayService, new: str, pods: list[Pod]) -> str:
        """Why the new cluster fails, once it has for long enough."""
        status, message = found.applications.get(new, ("", ""))
        stuck = next((pod for pod in pods if pod.stuck), None)
        why = f"{new}: its application is {status}: {message}" if status in FAILED else ""
        why = why or (f"{new}: pod {stuck.name} is {stuck.stuck}" if stuck else "")
        if not why:
            self._failing_since = None
            return ""
        if self._failing_since is None:
            self._failing_since = self.now()
            self.told(why)
        return why if status == "DEPLOY_FAILED" or self.now() - self._failing_since >= self.patience.failing_s else ""


def _of(cluster: str, pods: list[Pod]) -> list[Pod]:
    return [pod for pod in pods if pod.cluster == cluster]


def with_images(config: dict[str, Any], image: str | None, gpu_image: str | None) -> dict[str, Any]:
    """The same cluster of other images: `gpu_image` for the groups with a pool, `image` for all others; None: as they are.

    Ray's own containers are meant, and those that fetch weights with the same image.
    """
    changed = copy.deepcopy(config)
    groups = [(changed["headGroupSpec"], image)] if "headGroupSpec" in changed else []
    groups += [
        (one, gpu_image if POOL_LABEL in (one.get("labels") or {}) else image) for one in changed["workerGroupSpecs"]
    ]
    for group, wanted in groups:
        spec = group["template"]["spec"]
        before = spec["containers"][0]["image"]
        for container in (*spec.get("initContainers", []), *spec["containers"]):
            if wanted is not None and container["image"] == before:
                container["image"] = wanted
    return changed
