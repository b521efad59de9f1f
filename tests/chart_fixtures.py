"""The chart rendered by Helm itself, and schemas for the objects that Kubernetes' own do not cover."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT

_PLACES = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
HELM = shutil.which("helm", path=_PLACES)
if HELM is None:
    if (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        raise RuntimeError("helm is not installed: `make setup` puts it into .venv/bin")
    pytest.skip("there is no helm on the PATH", allow_module_level=True)
CHART = ROOT / "helm" / "liveact"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
ALL = pytest.mark.parametrize("path", [None, *EXAMPLES], ids=lambda path: path.stem if path else "defaults")
"""A test of the defaults and of every example."""
CRD_VARIABLE = "LIVEACT_RAYSERVICE_CRD"
"""Environment variable: KubeRay's own CustomResourceDefinition of RayService, a YAML file."""
CRD = Path(os.environ.get(CRD_VARIABLE, ROOT.parent / "shared" / "kuberay" / "ray.io_rayservices.yaml"))


LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class HelmError(Exception):
    """Helm's refusal, in its words."""


def helm(verb: str, values: dict[str, Any], *words: str | Path) -> str:
    """What `helm VERB WORDS --values VALUES` prints. Raises `HelmError`."""
    done = subprocess.run(
        [str(HELM), verb, *map(str, words), "--values", "-"],
        input=yaml.safe_dump(values), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode:
        raise HelmError(done.stderr or done.stdout)
    return done.stdout


def example(path: Path | None) -> dict[str, Any]:
    return {} if path is None else yaml.safe_load(path.read_text())


def render(values: dict[str, Any], name: str = "demo", chart: Path = CHART) -> list[dict[str, Any]]:
    """Every object that `helm install` would send. Raises `HelmError`."""
    text = helm("template", values, name, chart, "--namespace", "avatars")
    return [found for found in yaml.load_all(text, LOADER) if found]


@cache
def objects(path: Path | None) -> list[dict[str, Any]]:
    """What an example's values, or the defaults, render to: once a run."""
    return render(example(path))


def one(objects: list[dict[str, Any]], kind: str, name: str = "") -> dict[str, Any]:
    """The one object of that kind whose name ends so."""
    (found,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"].endswith(name)]
    return found


def serve_config(objects: list[dict[str, Any]]) -> dict[str, Any]:
    return yaml.safe_load(one(objects, "RayService")["spec"]["serveConfigV2"])


def pod_templates(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pod specs by name: head, each group, Valkey, the watcher, the test."""
    cluster = one(objects, "RayService")["spec"]["rayClusterConfig"]
    found = {"head": cluster["headGroupSpec"]["template"]["spec"]}
    found |= {group["groupName"]: group["template"]["spec"] for group in cluster["workerGroupSpecs"]}
    for thing in objects:
        if thing["kind"] == "StatefulSet":
            found["valkey"] = thing["spec"]["template"]["spec"]
        elif thing["kind"] == "Deployment":
            found["watcher"] = thing["spec"]["template"]["spec"]
        elif thing["kind"] == "Pod":
            found["test"] = thing["spec"]
    return found


# ---- schemas of our own ------------------------------------------------------------------------------------------------------


def closed(required: str = "", **properties: Any) -> dict[str, Any]:
    """An object with these fields and no other."""
    return {
        "type": "object", "properties": properties, "additionalProperties": False, "required": required.split(),
    }  # fmt: skip


def several(items: dict[str, Any], fewest: int = 1) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": fewest}


TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
FLAG: dict[str, Any] = {"type": "boolean"}
LABELS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "string"}}
META = closed("name", name=TEXT, namespace=TEXT, labels=LABELS, annotations=LABELS)
VALUE_OR_KEY = closed(
    value=TEXT, valueFrom=closed("secretKeyRef", secretKeyRef=closed("name key", name=TEXT, key=TEXT))
)
ANYTHING: dict[str, Any] = {"type": "object"}
"""What another schema checks."""
TEMPLATE = closed("metadata spec", metadata=closed("labels", labels=LABELS, annotations=LABELS), spec=ANYTHING)
PORT = closed(
    "name port targetPort appProtocol",
    name={"enum": ["serve", "serve-grpc"]}, port=COUNT, targetPort=COUNT, appProtocol={"enum": ["http", "kubernetes.io/h2c"]},
)  # fmt: skip
GROUP = closed(
    "groupName replicas minReplicas maxReplicas labels rayStartParams template",
    groupName=TEXT, replicas=COUNT, minReplicas=COUNT, maxReplicas=COUNT, idleTimeoutSeconds=COUNT, labels=LABELS,
    rayStartParams=LABELS, template=TEMPLATE,
)  # fmt: skip
CLUSTER = closed(
    "rayVersion authOptions enableInTreeAutoscaling headGroupSpec workerGroupSpecs",
    rayVersion={"const": "2.60.0"},
    authOptions=closed("mode secretName", mode={"const": "token"}, secretName=TEXT),
    gcsFaultToleranceOptions=closed(
        "redisAddress", redisAddress=TEXT, redisUsername=VALUE_OR_KEY, redisPassword=VALUE_OR_KEY
    ),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=closed(
        "version", version={"const": "v2"}, idleTimeoutSeconds=COUNT, resources=ANYTHING, securityContext=ANYTHING,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    ),
    headGroupSpec=closed("rayStartParams template", rayStartParams=LABELS, template=TEMPLATE),
    workerGroupSpecs=several(GROUP),
)  # fmt: skip
RAY_SERVICE = closed(
    "rayClusterConfig serveConfigV2 serveService upgradeStrategy rayClusterDeletionDelaySeconds",
    excludeHeadPodFromServeSvc=FLAG,
    rayClusterDeletionDelaySeconds=COUNT,
    upgradeStrategy=closed("type", type={"enum": ["NewCluster", "None"]}),
    serveService=closed(
        "metadata spec",
        metadata=META,
        spec=closed("type ports", type={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]}, ports=several(PORT, 2)),
    ),
    serveConfigV2=TEXT,
    rayClusterConfig=CLUSTER,
)
LISTENER = closed(
    "name hostname port protocol tls",
    name=TEXT, hostname=TEXT, port=COUNT, protocol={"const": "HTTPS"}, allowedRoutes=ANYTHING,
    tls=closed(
        "mode certificateRefs", mode={"const": "Terminate"},
        certificateRefs=several(closed("kind name", kind={"const": "Secret"}, name=TEXT)),
    ),
)  # fmt: skip
ROUTE = closed(
    "matches backendRefs",
    matches=several(closed("method", method=closed("service", service=TEXT))),
    backendRefs=several(closed("name port", name=TEXT, port=COUNT)),
)
RULE = {
    "oneOf": [
        closed("record expr", record=TEXT, expr=TEXT),
        closed(
            "alert expr labels annotations", alert=TEXT, expr=TEXT, labels=LABELS, annotations=LABELS, **{"for": TEXT}
        ),
    ]
}
METRICS = closed("port interval", port={"const": "metrics"}, interval=TEXT, relabelings=several(ANYTHING))
OWN_SCHEMAS = {
    "ray.io/v1/RayService": RAY_SERVICE,
    "gateway.networking.k8s.io/v1/Gateway": closed(
        "gatewayClassName listeners", gatewayClassName=TEXT, listeners=several(LISTENER)
    ),
    "gateway.networking.k8s.io/v1/GRPCRoute": closed(
        "parentRefs hostnames rules",
        parentRefs=several(closed("name", name=TEXT, namespace=TEXT, sectionName=TEXT)),
        hostnames=several(TEXT),
        rules=several(ROUTE),
    ),
    "monitoring.coreos.com/v1/PodMonitor": closed(
        "selector podMetricsEndpoints", selector=ANYTHING, podMetricsEndpoints=several(METRICS)
    ),
    "monitoring.coreos.com/v1/PrometheusRule": closed(
        "groups", groups=several(closed("name rules", name=TEXT, interval=TEXT, rules=several(RULE)))
    ),
}
"""`spec` by apiVersion/kind: the fields that the chart uses of what is no kind of Kubernetes' own."""


@cache
def ray_service_crd() -> dict[str, Any]:
    """KubeRay's schema of a RayService's `spec`, closed where it is open by Kubernetes' custom."""
    versions = yaml.load(CRD.read_text(), LOADER)["spec"]["versions"]
    (schema,) = [version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1"]
    return _as_json_schema(schema["properties"]["spec"])


def _as_json_schema(node: Any) -> Any:
    if isinstance(node, list):
        return [_as_json_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {key: _as_json_schema(item) for key, item in node.items()}
    if isinstance(made.get("properties"), dict) and "additionalProperties" not in made:
        made["additionalProperties"] = bool(node.get("x-kubernetes-preserve-unknown-fields"))
    return made
