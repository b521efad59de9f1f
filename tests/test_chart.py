"""The chart: what Helm makes of every example is valid for Kubernetes, KubeRay, Ray Serve and the service's configuration."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel
from ray.serve.schema import ServeDeploySchema

from chart_fixtures import (
    ALL,
    CHART,
    CRD,
    CRD_VARIABLE,
    OWN_SCHEMAS,
    example,
    helm,
    objects,
    one,
    pod_templates,
    ray_service_crd,
    render,
    serve_config,
)
from conftest import ROOT
from liveact_models.config import ConfigError
from liveact_services.cluster.reference import generated
from liveact_services.config import ServiceConfig, StageConfig, load_config
from liveact_services.graph import app
from liveact_services.service import SERVICERS

KUBERNETES = "1.29"
"""The oldest that Chart.yaml accepts."""


def test_the_generated_files_are_what_the_types_say() -> None:
    stale = [name for name, text in generated(CHART).items() if (CHART / name).read_text() != text]
    assert stale == [], "run `make chart`"


@ALL
def test_helm_lints_without_a_word(path: Path | None) -> None:
    said = helm("lint", example(path), CHART, "--strict", "--kube-version", "1.34.0").splitlines()
    # An icon is all that it misses.
    assert [line for line in said if line.startswith("[")] == ["[INFO] Chart.yaml: icon is recommended"]


@ALL
def test_every_object_is_valid(path: Path | None) -> None:
    for thing in objects(path):
        own = OWN_SCHEMAS.get(f"{thing['apiVersion']}/{thing['kind']}")
        if own is None:
            for version in (KUBERNETES, "1.37"):
                kubernetes_validate.validate(thing, version, strict=True)
        else:
            jsonschema.validate(thing["spec"], own)
    for name, spec in pod_templates(objects(path)).items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.skipif(not CRD.exists(), reason=f"{CRD_VARIABLE} names no file")
@ALL
def test_kuberay_accepts_the_ray_service(path: Path | None) -> None:
    jsonschema.Draft7Validator(ray_service_crd()).validate(one(objects(path), "RayService")["spec"])


def test_a_field_that_kuberay_does_not_know_would_be_found() -> None:
    spec = copy.deepcopy(one(objects(None), "RayService")["spec"])
    spec["rayClusterConfig"]["workerGroupSpecs"][0]["maxReplica"] = 2
    schemas = [OWN_SCHEMAS["ray.io/v1/RayService"], *([ray_service_crd()] if CRD.exists() else [])]
    for schema in schemas:
        with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
            jsonschema.Draft7Validator(schema).validate(spec)


# ---- what Serve is told ------------------------------------------------------------------------------------------------------


def unknown_keys(config: Any, model: BaseModel, where: str = "") -> list[str]:
    """Keys of `config` that `model`, made of it, has no field for: Serve itself lets them pass."""
    fields = type(model).model_fields
    found = [f"{where}{key}" for key in config if key not in fields]
    for key in set(config) & set(fields):
        held = getattr(model, key)
        pairs = zip(config[key], held, strict=True) if isinstance(held, list) else [(config[key], held)]
        for part, made in pairs:
            if isinstance(made, BaseModel) and isinstance(part, dict):
                found += unknown_keys(part, made, f"{where}{key}.")
    return found


@ALL
def test_serve_knows_every_key(path: Path | None) -> None:
    config = serve_config(objects(path))
    assert unknown_keys(config, ServeDeploySchema.model_validate(config)) == []
    config["applications"][0]["deployments"][0]["num_replica"] = 1
    schema = ServeDeploySchema.model_validate(config)
    assert unknown_keys(config, schema) == ["applications.deployments.num_replica"]


@ALL
def test_the_arguments_are_the_configuration_of_the_values(path: Path | None) -> None:
    (application,) = serve_config(objects(path))["applications"]
    got = load_config(**application["args"])
    counts = {entry["name"]: entry["num_replicas"] for entry in application["deployments"]}
    fixed = {}
    for field, name in DEPLOYMENTS.items():
        stage = getattr(got, field)
        assert stage.node_labels["liveact-kind"] == ("gpu" if stage.num_gpus else "cpu")
        if stage.autoscaling is None:
            fixed[name] = stage.replicas
            assert "replicas" not in application["args"][field], (
                "a count among the arguments would exchange every replica"
            )
        # What serves all pools leaves gold's GPUs to gold.
        assert stage.node_labels.get("liveact-pool") == ("default" if stage.num_gpus else None)
    for pool, stage in got.pools.items():
        assert stage.node_labels == {"liveact-kind": "gpu", "liveact-pool": pool}
    wanted = load_config(**example(path).get("config", {}))
    for field, name in DEPLOYMENTS.items():
        if name in counts:
            assert counts[name] == getattr(wanted, field).replicas
    assert counts.keys() == fixed.keys()
    assert got.sessions == wanted.sessions
    assert (got.preset, got.denoiser.engine) == (wanted.preset, wanted.denoiser.engine)


DEPLOYMENTS = {
    "gateway": "Gateway", "conditioner": "Conditioner", "audio_encoder": "AudioEncoder", "vae_encoder": "VaeEncoder",
    "denoiser": "Denoiser", "vae_decoder": "VaeDecoder", "vault": "Vault",
}  # fmt: skip


@pytest.mark.parametrize("path", [None, CHART / "examples" / "laptop-cpu.yaml"], ids=["defaults", "laptop-cpu"])
def test_the_importable_application_has_the_deployments_that_are_counted(
    path: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "redis_url").write_text("redis://elsewhere:6379/1")
    monkeypatch.setenv("LIVEACT_SECRETS_DIR", str(tmp_path))
    config = serve_config(objects(path))
    assert config["applications"][0]["import_path"] == f"{app.__module__}:{app.__name__}"
    assert config["grpc_options"]["grpc_servicer_functions"] == SERVICERS
    bound = app(config["applications"][0]["args"])
    gateway = bound._bound_deployment
    assert gateway.init_args[3] == "redis://elsewhere:6379/1"
    handles = gateway.init_kwargs
    deployments = [gateway, *(handles[k]._bound_deployment for k in handles if k != "denoisers")]
    deployments += [d._bound_deployment for d in handles["denoisers"].values()]
    assert {d.name for d in deployments} == {entry["name"] for entry in config["applications"][0]["deployments"]}
    assert {str(d.ray_actor_options["label_selector"]) for d in deployments} == {"{'liveact-kind': 'cpu'}"}


def test_all_ranks_of_a_replica_are_placed_on_nodes_with_its_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEACT_REDIS_URL", "redis://elsewhere")
    gold = {"ranks": 2, "node_labels": {"liveact-pool": "gold"}}
    denoisers = app({"pools": {"gold": gold}})._bound_deployment.init_kwargs["denoisers"]
    placed = denoisers["gold"]._bound_deployment._replica_config
    assert len(placed.placement_group_bundles) == 3
    assert placed.placement_group_bundle_label_selector == [gold["node_labels"]] * 3


@pytest.mark.parametrize(
    ("args", "message"),
    [({}, "redis_url is missing: accepted is"), ({"denoiser": {"replica": 2}}, "denoiser.replica: Extra inputs")],
)
def test_wrong_arguments_of_the_application_are_refused_by_name(
    args: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LIVEACT_REDIS_URL", raising=False)
    with pytest.raises(ConfigError, match=message):
        app(args)


def test_every_stage_of_the_configuration_has_its_deployment_in_the_chart() -> None:
    assert {name for name, value in ServiceConfig() if isinstance(value, StageConfig)} == DEPLOYMENTS.keys()
    helper = (CHART / "templates" / "_serve.tpl").read_text()
    stages = helper.split('define "liveact.stages" -}}')[1].split("{{-")[0]
    assert yaml.safe_load(stages) == DEPLOYMENTS


# ---- pods --------------------------------------------------------------------------------------------------------------------


@ALL
def test_a_worker_gets_the_time_that_its_leaving_takes(path: Path | None) -> None:
    config = load_config(**example(path).get("config", {}))
    templates = pod_templates(objects(path))
    for group in templates.keys() - {"head", "valkey", "watcher", "test"}:
        (container,) = templates[group]["containers"]
        *command, wait = container["lifecycle"]["preStop"]["exec"]["command"]
        assert command == ["python", "-m", "liveact_services.cluster.leave", "--wait"]
        assert templates[group]["terminationGracePeriodSeconds"] >= int(wait) + config.drain_timeout_s


@ALL
def test_a_cluster_that_is_replaced_stays_as_long_as_a_session_may_last(path: Path | None) -> None:
    config = load_config(**example(path).get("config", {}))
    delay = one(objects(path), "RayService")["spec"]["rayClusterDeletionDelaySeconds"]
    assert delay >= config.sessions.max_duration_s


def test_another_version_of_the_chart_leaves_the_pods_as_they_are(tmp_path: Path) -> None:
    """KubeRay answers another pod template with another cluster."""
    import shutil

    shutil.copytree(CHART, tmp_path / "liveact")
    about = tmp_path / "liveact" / "Chart.yaml"
    about.write_text(about.read_text().replace("0.1.0", "9.9.9"))
    after = one(render({}, chart=tmp_path / "liveact"), "RayService")
    assert after["metadata"]["labels"]["helm.sh/chart"] == "liveact-9.9.9"
    assert after["spec"] == one(objects(None), "RayService")["spec"]


@ALL
def test_what_is_selected_and_referred_to_is_there(path: Path | None) -> None:
    things = objects(path)
    names = {(thing["kind"], thing["metadata"]["name"]) for thing in things}
    for spec in pod_templates(things).values():
        if "serviceAccountName" in spec:
            assert ("ServiceAccount", spec["serviceAccountName"]) in names
    cluster = one(things, "RayService")["spec"]["rayClusterConfig"]
    templates = [cluster["headGroupSpec"]["template"], *(g["template"] for g in cluster["workerGroupSpecs"])]
    labels = [template["metadata"]["labels"] for template in templates]
    for budget in (thing for thing in things if thing["kind"] == "PodDisruptionBudget"):
        # Of pods that no built-in controller owns, Kubernetes takes a whole number of minAvailable only.
        assert budget["spec"].keys() == {"minAvailable", "selector"}
        wanted = budget["spec"]["selector"]["matchLabels"].items()
        assert sum(wanted <= found.items() for found in labels) == 1
    service = one(things, "RayService")["spec"]["serveService"]["metadata"]["name"]
    for kind in ("GRPCRoute", "Ingress"):
        for thing in (found for found in things if found["kind"] == kind):
            assert service in yaml.safe_dump(thing["spec"])


def test_autoscaled_groups_are_the_autoscalers_and_others_are_fixed() -> None:
    things = objects(CHART / "examples" / "autoscaled-pools.yaml")
    cluster = one(things, "RayService")["spec"]["rayClusterConfig"]
    assert cluster["enableInTreeAutoscaling"] is True
    sizes = {g["groupName"]: (g["minReplicas"], g["maxReplicas"]) for g in cluster["workerGroupSpecs"]}
    assert sizes == {"cpu": (2, 4), "gpu": (2, 10), "gold": (1, 3)}
    assert {g["groupName"]: g["labels"] for g in cluster["workerGroupSpecs"]} == {
        "cpu": {"liveact-kind": "cpu"},
        "gpu": {"liveact-kind": "gpu", "liveact-pool": "default"},
        "gold": {"liveact-kind": "gpu", "liveact-pool": "gold"},
    }
    # Serve's autoscaler, then Ray's, then KubeRay: nothing of Kubernetes' own scales Ray's pods.
    assert not any(thing["kind"] in ("HorizontalPodAutoscaler", "ScaledObject") for thing in things)


@pytest.mark.parametrize("release", ["demo", "liveact", "a" * 53])
def test_names_fit_whatever_the_release_is_called(release: str) -> None:
    things = render({"priorityClasses": {"create": True}}, name=release)
    assert len(one(things, "RayService")["metadata"]["name"]) <= 40
    assert all(len(thing["metadata"]["name"]) <= 63 for thing in things)


def test_the_clip_of_helm_test_is_in_the_images() -> None:
    (container,) = pod_templates(objects(None))["test"]["containers"]
    clip = [word for word in container["command"] if "/" in word]
    assert len(clip) == 2
    assert all((ROOT / name).exists() for name in clip)
    for dockerfile in ("cpu", "gpu"):
        text = (ROOT / "docker" / f"{dockerfile}.Dockerfile").read_text()
        assert f"{container['workingDir']}/examples" in text


def test_the_watcher_may_see_nodes_and_clusters_and_evict_here_and_nothing_else() -> None:
    things = objects(None)
    rules = {kind: one(things, kind, "watcher")["rules"] for kind in ("Role", "ClusterRole")}
    assert rules == {
        "Role": [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
            {"apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"]},
            {"apiGroups": ["ray.io"], "resources": ["rayservices", "rayclusters"], "verbs": ["list"]},
        ],
        "ClusterRole": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]}],
    }
    account = pod_templates(things)["watcher"]["serviceAccountName"]
    for kind in ("RoleBinding", "ClusterRoleBinding"):
        binding = one(things, kind, "watcher")
        assert [(subject["name"], subject["namespace"]) for subject in binding["subjects"]] == [(account, "avatars")]
        assert binding["roleRef"]["name"] == one(things, binding["roleRef"]["kind"], "watcher")["metadata"]["name"]
    assert not [thing for thing in render({"watcher": {"enabled": False}}) if "Role" in thing["kind"]]
    args = render({"watcher": {"taints": ["example.com/"]}})
    assert pod_templates(args)["watcher"]["containers"][0]["args"] == ["--alive=/tmp/alive", "--taint=example.com/"]


def test_alerts_and_dashboard_are_those_that_are_tested_against_the_metrics() -> None:
    folder = ROOT / "services" / "liveact_services" / "observability"
    things = render({"monitoring": {"enabled": True, "dashboards": True, "labels": {"release": "prometheus"}}})
    rule = one(things, "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((folder / "alerts" / "liveact.yaml").read_text())
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    dashboard = one(things, "ConfigMap", "dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["liveact.json"]) == json.loads(
        (folder / "dashboards" / "liveact.json").read_text()
    )
    kinds = {thing["kind"] for thing in render({"monitoring": {"enabled": True, "alerts": False}})}
    assert "PodMonitor" in kinds
    assert not kinds & {"PrometheusRule"}
