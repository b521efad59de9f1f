"""The Kubernetes API as far as the product asks for it: a RayService, its pods, the nodes they are on."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from liveact_services.cluster.objects import SERVICE_LABEL, Group, Node, Pod, RayService, Sessions

RAY = ("ray.io", "v1")
METRICS_PORT = 8080
"""Where the chart has Ray serve its metrics, on every pod."""
DASHBOARD_PORT = 8265


class ClusterError(Exception):
    """The API cannot be reached or refuses; the message says what was asked and what to do."""


class NotThere(ClusterError):
    """What was named does not exist; the message says what does."""


@dataclass
class Kube:
    """A connection to one namespace. Calls raise `ClusterError`, in words."""

    namespace: str
    client: Any
    """kubernetes.client.ApiClient"""
    _apis: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def connect(cls, namespace: str | None = None, context: str | None = None) -> Kube:
        """By the account of the pod this runs in, else by kubeconfig. Raises `ClusterError` where there is neither."""
        from kubernetes import client, config

        place = namespace
        try:
            if context is None:
                config.load_incluster_config()
                place = place or _own_namespace()
        except config.ConfigException:
            context = context or ""
        if context is not None:
            try:
                contexts, active = config.list_kube_config_contexts()
                config.load_kube_config(context=context or None)
            except (config.ConfigException, TypeError) as error:
                raise ClusterError(
                    f"no cluster is configured: {error}; accepted are a kubeconfig or a pod's account"
                ) from None
            named = next((one for one in contexts if one["name"] == context), active)
            place = place or named["context"].get("namespace")
        return cls(place or "default", client.ApiClient())

    # ---- what there is

    def ray_services(self) -> list[RayService]:
        """Every RayService of the namespace."""
        with self._asking("list rayservices.ray.io"):
            found = self._api("CustomObjectsApi").list_namespaced_custom_object(*RAY, self.namespace, "rayservices")
        return [RayService.of(one) for one in found["items"]]

    def cluster_config(self, service: RayService) -> dict[str, Any]:
        """The rayClusterConfig of the service, as it stands."""
        with self._asking(f"read the RayService {service.name}"):
            found = self._api("CustomObjectsApi").get_namespaced_custom_object(
                *RAY, self.namespace, "rayservices", service.name
            )
        return dict(found["spec"]["rayClusterConfig"])

    def ray_service(self, name: str | None = None) -> RayService:
        """The one of that name, or the only one. Raises `NotThere` naming those that there are."""
        found = {one.name: one for one in self.ray_services()}
        if name is None and len(found) == 1:
            return next(iter(found.values()))
        if name in found:
            return found[name]
        asked = "which RayService is not said" if name is None else f"no RayService {name!r}"
        raise NotThere(f"{asked} in namespace {self.namespace!r}: there are {', '.join(found) or 'none'}")

    def ray_clusters(self, service: RayService) -> dict[str, dict[str, Any]]:
        """Every RayCluster of the service that there still is, by name, as the API has it."""
        with self._asking("list rayclusters.ray.io"):
            found = self._api("CustomObjectsApi").list_namespaced_custom_object(
                *RAY, self.namespace, "rayclusters", label_selector=f"{SERVICE_LABEL}={service.name}"
            )
        return {one["metadata"]["name"]: one for one in found["items"]}

    def pods(self, service: RayService | None = None) -> list[Pod]:
        """Ray pods, of one service's active and pending clusters or of all in the namespace."""
        with self._asking("list pods"):
            found = self._api("CoreV1Api").list_namespaced_pod(self.namespace, label_selector="ray.io/cluster")
        pods = [Pod.of(one) for one in found.items]
        return [pod for pod in pods if service is None or pod.cluster in service.clusters]

    def workers(self, nodes: Collection[str]) -> list[Pod]:
        """Ray pods on these nodes, of any service of the namespace, but for heads."""
        return [pod for pod in self.pods() if pod.node in nodes and not pod.head]

    def nodes(self) -> list[Node]:
        """Every node."""
        with self._asking("list nodes"):
            return [Node.of(one) for one in self._api("CoreV1Api").list_node().items]

    def node(self, name: str) -> Node:
        """The node of that name. Raises `NotThere`."""
        found = {one.name: one for one in self.nodes()}
        if name not in found:
            raise NotThere(f"no node {name!r}: there are {', '.join(found) or 'none'}")
        return found[name]

    def sessions(self, pod: Pod) -> list[Sessions]:
        """What the pod's replicas hold, from its metrics; nothing where it does not answer."""
        from prometheus_client.parser import text_string_to_metric_families

        try:
            text = self.through(f"pods/{pod.name}:{METRICS_PORT}", "metrics").decode()
            return Sessions.read(pod.name, text_string_to_metric_families(text))
        except (ClusterError, ValueError):
            return []

    def secret(self, name: str, key: str) -> str:
        """A key of a Secret. Raises `NotThere`."""
        import base64

        with self._asking(f"read the Secret {name}"):
            data = self._api("CoreV1Api").read_namespaced_secret(name, self.namespace).data or {}
        if key not in data:
            raise NotThere(f"the Secret {name!r} has no key {key!r}: there are {', '.join(data) or 'none'}")
        return base64.b64decode(data[key]).decode()

    def through(self, target: str, path: str, query: list[tuple[str, Any]] | None = None, **headers: str) -> bytes:
        """What a pod or Service answers to a GET by way of the API's proxy. `target`: as pods/NAME:PORT."""
        what = f"ask {target} for {path}"
        place = f"/api/v1/namespaces/{self.namespace}/{target}/proxy/{path}"
        with self._asking(what):
            request = self.client.param_serialize(
                "GET", place, query_params=query or [], header_params={"Accept": "*/*", **headers}, auth_settings=["BearerToken"]
            )  # fmt: skip
            answer = self.client.call_api(*request, _request_timeout=(5, 30))
            data = bytes(answer.read() or b"")
        if not 200 <= answer.status < 300:
            raise _Refused(what, answer.status, data[:200].decode(errors="replace"))
        return data

    # ---- what is changed

    def cordon(self, node: str, on: bool = True) -> None:
        """Nothing new is placed on the node, or, off, is again."""
        with self._asking(f"cordon node {node}"):
            self._api("CoreV1Api").patch_node(node, {"spec": {"unschedulable": on}})

    def evict(self, pod: Pod) -> bool:
        """Have the pod leave; its preStop runs first. False where a PodDisruptionBudget says not yet."""
        from kubernetes import client

        eviction = client.V1Eviction(metadata=client.V1ObjectMeta(name=pod.name, namespace=self.namespace))
        try:
            with self._asking(f"evict pod {pod.name}"):
                self._api("CoreV1Api").create_namespaced_pod_eviction(pod.name, self.namespace, eviction)
        except _Refused as refused:
            if refused.status == 429:
                return False
            if refused.status != 404:
                raise
        return True

    def scale(self, service: RayService, group: Group, counts: dict[str, int]) -> None:
        """Other counts (replicas, minReplicas, maxReplicas) of a worker group."""
        place = f"/spec/rayClusterConfig/workerGroupSpecs/{group.index}"
        patch: list[dict[str, Any]] = [{"op": "test", "path": f"{place}/groupName", "value": group.name}]
        patch += [{"op": "add", "path": f"{place}/{key}", "value": value} for key, value in counts.items()]
        self._change(service, patch)

    def exchange(self, service: RayService, config: dict[str, Any]) -> None:
        """Another rayClusterConfig: KubeRay makes a cluster of it beside the one that serves, or drops one that it made."""
        self._change(service, [{"op": "replace", "path": "/spec/rayClusterConfig", "value": config}])

    def _change(self, service: RayService, patch: list[dict[str, Any]]) -> None:
        with self._asking(f"change the RayService {service.name}"):
            self._api("CustomObjectsApi").patch_namespaced_custom_object(
                *RAY, self.namespace, "rayservices", service.name, patch
            )

    def node_events(self, seconds: int) -> Iterator[None]:
        """Yields whenever a node changed, for so long; also where the server, or what is in between, does not keep to that."""
        from kubernetes import watch
        from urllib3.exceptions import ReadTimeoutError

        with self._asking("watch nodes"), suppress(ReadTimeoutError):
            for _ in watch.Watch().stream(
                self._api("CoreV1Api").list_node, timeout_seconds=seconds, _request_timeout=(5, seconds + 1)
            ):
                yield

    def _api(self, kind: str) -> Any:
        from kubernetes import client

        return self._apis.setdefault(kind, getattr(client, kind)(self.client))

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ApiException as error:
            raise _Refused(what, error.status or 0, _told(error)) from None
        except HTTPError as error:
            cause = getattr(error, "reason", None) or error
            raise ClusterError(
                f"the Kubernetes API at {self.client.configuration.host} does not answer: {cause}"
            ) from None


class _Refused(ClusterError):
    """The API's refusal."""

    def __init__(self, what: str, status: int, told: str) -> None:
        words = {401: "the account is not known", 403: "the account may not", 404: "there is none"}
        super().__init__(f"cannot {what}: {words.get(status, f'HTTP {status}')}" + (f" ({told})" if told else ""))
        self.status = status


def _told(error: Any) -> str:
    """The API's own message."""
    import json

    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason or "")


def _own_namespace() -> str | None:
    from pathlib import Path

    path = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    return path.read_text().strip() if path.is_file() else None
