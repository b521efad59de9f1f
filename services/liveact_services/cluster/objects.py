"""What the commands and the watcher know of Kubernetes' objects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from liveact_services.observability.metrics import CAPACITY, HELD

POOL_LABEL = "liveact-pool"
"""Of a worker group whose pods have GPUs, as the chart writes it."""
SERVICE_LABEL = "ray.io/originated-from-cr-name"
"""Of a RayCluster: the RayService that KubeRay made it for."""
STUCK = frozenset(
    {"CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CreateContainerConfigError"}
)
"""Why a container waits that will not start by waiting."""
LEAVING_TAINTS = (
    "ToBeDeletedByClusterAutoscaler",
    "karpenter.sh/disrupted",
    "karpenter.sh/disruption",
    "node.cloudprovider.kubernetes.io/shutdown",
    "node.kubernetes.io/out-of-service",
    "aws-node-termination-handler/",
    "cloud.google.com/impending-node-termination",
)
"""Taints, or how they begin, of nodes that are about to go: by the autoscaler, by consolidation, or reclaimed."""
LEAVING_CONDITIONS = ("VMEventScheduled", "PreemptScheduled")
"""Conditions that say the same: Azure's node problem detector sets them."""


@dataclass(frozen=True)
class Group:
    """A worker group of a RayService."""

    index: int
    """Its place in the specification."""
    name: str
    pool: str | None
    """Whose Denoisers its pods run; None without GPUs."""
    replicas: int
    minimum: int
    maximum: int

    @classmethod
    def of(cls, index: int, spec: dict[str, Any]) -> Group:
        fewest = int(spec.get("minReplicas", 0))
        return cls(
            index, spec["groupName"], (spec.get("labels") or {}).get(POOL_LABEL), int(spec.get("replicas", fewest)), fewest,
            int(spec.get("maxReplicas", 2**31 - 1)),
        )  # fmt: skip


@dataclass(frozen=True)
class RayService:
    """One deployment of the service, as KubeRay tells it."""

    name: str
    active: str
    """The RayCluster that serves; empty before any does."""
    pending: str
    """The one that is to take over; mostly empty."""
    conditions: dict[str, bool]
    groups: tuple[Group, ...]
    autoscaled: bool
    applications: dict[str, tuple[str, str]]
    """Of each cluster how Serve says its application is, and its message."""

    @classmethod
    def of(cls, found: dict[str, Any]) -> RayService:
        status, cluster = found.get("status") or {}, found["spec"]["rayClusterConfig"]
        return cls(
            found["metadata"]["name"],
            (status.get("activeServiceStatus") or {}).get("rayClusterName", ""),
            (status.get("pendingServiceStatus") or {}).get("rayClusterName", ""),
            {one["type"]: one["status"] == "True" for one in status.get("conditions") or []},
            tuple(Group.of(index, spec) for index, spec in enumerate(cluster.get("workerGroupSpecs") or [])),
            bool(cluster.get("enableInTreeAutoscaling")),
            dict(filter(None, (_application(status.get(key) or {}) for key in ("activeServiceStatus", "pendingServiceStatus")))),
        )  # fmt: skip

    @property
    def clusters(self) -> list[str]:
        return [name for name in (self.active, self.pending) if name]

    @property
    def state(self) -> str:
        """In one word for people."""
        if self.conditions.get("Suspending") or self.conditions.get("Suspended"):
            return "suspended"
        if self.conditions.get("UpgradeInProgress") or (self.active and self.pending):
            return "upgrading"
        return "serving" if self.conditions.get("Ready") else "not ready"


@dataclass(frozen=True)
class Pod:
    """A pod of Ray's: a node in Ray's sense."""

    name: str
    cluster: str
    group: str
    head: bool
    node: str
    phase: str
    ready: bool
    leaving: bool
    stuck: str
    """Why a container of it will not start; empty where none is known not to."""

    @classmethod
    def of(cls, found: Any) -> Pod:
        labels, conditions = found.metadata.labels or {}, found.status.conditions or []
        return cls(
            found.metadata.name, labels.get("ray.io/cluster", ""), labels.get("ray.io/group", ""),
            labels.get("ray.io/node-type") == "head", found.spec.node_name or "", found.status.phase or "",
            any(one.type == "Ready" and one.status == "True" for one in conditions),
            found.metadata.deletion_timestamp is not None, _stuck(found.status),
        )  # fmt: skip

    @property
    def state(self) -> str:
        """In one word for people."""
        if self.leaving:
            return "leaving"
        return "ready" if self.ready else self.stuck or self.phase.lower() or "unknown"


@dataclass(frozen=True)
class Node:
    """A machine of the cluster."""

    name: str
    cordoned: bool
    taints: tuple[str, ...]
    conditions: tuple[str, ...]
    """Those that are true."""

    @classmethod
    def of(cls, found: Any) -> Node:
        return cls(
            found.metadata.name, bool(found.spec.unschedulable), tuple(one.key for one in found.spec.taints or []),
            tuple(one.type for one in found.status.conditions or [] if one.status == "True"),
        )  # fmt: skip

    def going(self, more_taints: Iterable[str] = ()) -> str:
        """Why the node is about to go or takes nothing new; empty where it is neither."""
        known = (*LEAVING_TAINTS, *more_taints)
        for taint in self.taints:
            if any(taint == one or (one.endswith("/") and taint.startswith(one)) for one in known):
                return f"tainted {taint}"
        for condition in LEAVING_CONDITIONS:
            if condition in self.conditions:
                return condition
        return "cordoned" if self.cordoned else ""


@dataclass(frozen=True)
class Sessions:
    """What the replicas of one deployment hold on one pod."""

    pod: str
    deployment: str
    pool: str
    held: int
    capacity: int

    @classmethod
    def read(cls, pod: str, families: Iterable[Any]) -> list[Sessions]:
        """From a pod's metrics."""
        found: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for family in families:
            if family.name in (HELD.exported, CAPACITY.exported):
                for sample in family.samples:
                    key = sample.labels.get("deployment", ""), sample.labels.get("pool", "")
                    found[key][family.name] += sample.value
        return [
            cls(pod, deployment, pool, round(values[HELD.exported]), int(values[CAPACITY.exported]))
            for (deployment, pool), values in sorted(found.items())
        ]


def _application(status: dict[str, Any]) -> tuple[str, tuple[str, str]] | None:
    """A RayCluster, and how its application is."""
    applications = status.get("applicationStatuses") or {}
    if not (name := status.get("rayClusterName")) or not applications:
        return None
    told = next(iter(applications.values()))
    return name, (told.get("status", ""), told.get("message", ""))


def _stuck(status: Any) -> str:
    """The first container's reason."""
    for container in [*(status.init_container_statuses or []), *(status.container_statuses or [])]:
        waiting = container.state.waiting if container.state else None
        if waiting is not None and waiting.reason in STUCK:
            return str(waiting.reason)
    return ""
