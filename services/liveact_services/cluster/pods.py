"""Values of the chart that say what a pod is: images, resources, where it may run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
"""A name that Kubernetes accepts for an object of any kind."""
Group = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,18}[a-z0-9])?$")]
"""A group's name: part of its pods' names, which are short."""
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]
"""An amount as Kubernetes writes it, in quotes: "4", "500m", "16Gi"."""
Labels = dict[str, str]
Verbatim = dict[str, Any]
"""An object of Kubernetes, passed on as it stands."""


class Strict(BaseModel):
    """Values in Helm's spelling; a field that is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, use_attribute_docstrings=True)


class SecretKey(Strict):
    """A key of a Secret that somebody else makes: by hand, or External Secrets."""

    name: Name | None = None
    """The Secret; null: none."""
    key: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$")]
    """The key in it."""


class Image(Strict):
    """A container image."""

    repository: Annotated[str, Field(min_length=1)]
    """Registry and name."""
    tag: Annotated[str, Field(pattern=r"^[\w][\w.-]{0,127}$")]
    """Which version; what `digest` names wins."""
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None
    """sha256:...; the one way of naming an image that cannot change under you."""
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"


class Placement(Strict):
    """Where pods may run."""

    node_selector: Labels = {}
    tolerations: list[Verbatim] = []
    affinity: Verbatim = {}
    priority_class_name: str | None = None
    """Null: that of `priorityClasses` where they are made, else the cluster's default."""
    pod_annotations: Labels = {}


class Spread(Strict):
    """One topology that pods are spread over."""

    topology_key: Annotated[str, Field(min_length=1)] = "topology.kubernetes.io/zone"
    max_skew: Annotated[int, Field(ge=1)] = 1
    when_unsatisfiable: Literal["ScheduleAnyway", "DoNotSchedule"] = "ScheduleAnyway"


class Head(Placement):
    """Ray's head: the control plane. It runs no replica."""

    cpu: Quantity = "2"
    """Request and limit: Ray wants them equal."""
    memory: Quantity = "8Gi"
    """Request and limit."""
    scratch: Quantity = "20Gi"
    """Logs and spilled objects, at most."""
    min_available: Annotated[int, Field(ge=0, le=1)] = 0
    """1: no eviction touches the head, and no node it is on can be drained."""


class WorkerGroup(Placement):
    """Pods of one shape, each a Ray node."""

    replicas: Annotated[int, Field(ge=0)] | None = None
    """At the start; null: `minReplicas`."""
    min_replicas: Annotated[int, Field(ge=0)] = 1
    """Fewest pods; without the autoscaler that many, always."""
    max_replicas: Annotated[int, Field(ge=1)] = 1
    """Most pods."""
    cpu: Quantity = "4"
    """Request and limit: Ray wants them equal."""
    memory: Quantity = "12Gi"
    """Request and limit."""
    scratch: Quantity = "20Gi"
    """Logs and spilled objects, at most."""
    gpus: Annotated[int, Field(ge=0, le=16)] = 0
    """GPUs a pod. With any, its pods take `gpuImage` and run deployments with `num_gpus`; with none, the others."""
    gpu_resource: str = "nvidia.com/gpu"
    """What the cluster calls a GPU; MIG slices have names of their own."""
    pool: Group = "default"
    """Whose Denoisers a group with GPUs runs: one of `config.pools`, or default."""
    runtime_class_name: str | None = None
    """The GPU runtime's class, where the cluster has one."""
    idle_timeout_seconds: Annotated[int, Field(ge=1)] | None = None
    """After how long an empty pod goes; null: that of `autoscaler`."""
    topology_spread: list[Spread] = [Spread()]
    min_available: Annotated[int, Field(ge=0)] | None = None
    """Pods that evictions must leave; null: one less than `minReplicas`. A PodDisruptionBudget, where it is not 0."""
