"""What is rendered is as Kubernetes' pod security standard "restricted" wants it, and no secret lies where it would be read."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart_fixtures import ALL, example, objects, one, pod_templates
from conftest import ROOT

VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
"""Kinds that "restricted" allows: https://kubernetes.io/docs/concepts/security/pod-security-standards/."""
TELLING = re.compile(r"PASS|SECRET|TOKEN|CREDENTIAL|PRIVATE|_KEY$|AUTH$", re.IGNORECASE)
CHECKOV = shutil.which("checkov", path=os.pathsep.join([str(ROOT / ".venv-checkov" / "bin"), os.environ["PATH"]]))


def breaches(spec: dict[str, Any]) -> Iterator[str]:
    """What of a pod "restricted" forbids, by field."""
    yield from (name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name))
    pod = spec.get("securityContext", {})
    yield from ("securityContext.sysctls" for _ in pod.get("sysctls", []))
    for volume in spec.get("volumes", []):
        yield from (f"volumes.{kind}" for kind in volume.keys() - {"name"} - VOLUMES)
    for container in (*spec["containers"], *spec.get("initContainers", []), *spec.get("ephemeralContainers", [])):
        yield from _of_container(container, pod)


def _of_container(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext", {})
    context = {**pod, **own}
    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    if context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0:
        yield "runAsNonRoot"
    if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities"
    if own.get("procMount", "Default") != "Default":
        yield "procMount"
    yield from ("hostPort" for port in container.get("ports", []) if port.get("hostPort"))


def containers(things: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every container with its pod's name."""
    for name, spec in pod_templates(things).items():
        yield from ((name, container) for container in (*spec["containers"], *spec.get("initContainers", [])))


@ALL
def test_pods_are_restricted_on_a_read_only_root_and_without_tokens_or_links(path: Path | None) -> None:
    autoscaled = example(path).get("autoscaler", {}).get("enabled", False)
    for name, spec in pod_templates(objects(path)).items():
        assert list(breaches(spec)) == [], name
        assert spec["automountServiceAccountToken"] is (name == "watcher" or (name == "head" and autoscaled))
        # A Service called liveact would otherwise set LIVEACT_PORT to a URL.
        assert spec["enableServiceLinks"] is False
        mounted = {mount["name"] for c in spec["containers"] for mount in c["volumeMounts"]}
        assert mounted <= {v["name"] for v in spec["volumes"]} | {"data"}
    assert all(c["securityContext"]["readOnlyRootFilesystem"] is True for _, c in containers(objects(path)))
    options = one(objects(path), "RayService")["spec"]["rayClusterConfig"].get("autoscalerOptions")
    if options is not None:
        pod = pod_templates(objects(path))["head"]["securityContext"]
        assert list(_of_container({"securityContext": options["securityContext"]}, pod)) == []


BREACHES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "hostNetwork": lambda spec: spec.update(hostNetwork=True),
    "securityContext.sysctls": lambda spec: spec["securityContext"].update(sysctls=[{"name": "a", "value": "b"}]),
    "volumes.hostPath": lambda spec: spec["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
    "privileged": lambda spec: spec["containers"][0]["securityContext"].update(privileged=True),
    "allowPrivilegeEscalation": lambda spec: spec["containers"][0]["securityContext"].pop("allowPrivilegeEscalation"),
    "runAsNonRoot": lambda spec: spec["containers"][0]["securityContext"].update(runAsNonRoot=False),
    "seccompProfile": lambda spec: spec["securityContext"].pop("seccompProfile"),
    "capabilities": lambda spec: spec["containers"][0]["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]),
    "procMount": lambda spec: spec["containers"][0]["securityContext"].update(procMount="Unmasked"),
    "hostPort": lambda spec: spec["containers"][0]["ports"][0].update(hostPort=80),
}


@pytest.mark.parametrize("field", BREACHES)
def test_a_pod_that_is_not_restricted_would_be_found(field: str) -> None:
    spec = copy.deepcopy(pod_templates(objects(None))["cpu"])
    BREACHES[field](spec)
    assert list(breaches(spec)) == [field]


@ALL
def test_every_image_is_of_a_version_and_every_container_has_limits(path: Path | None) -> None:
    for name, container in containers(objects(path)):
        _, at, digest = container["image"].partition("@sha256:")
        tag = container["image"].partition("@")[0].rpartition("/")[2].partition(":")[2]
        assert (at and re.fullmatch("[0-9a-f]{64}", digest)) or tag not in ("", "latest"), name
        for bound in ("requests", "limits"):
            assert {"cpu", "memory"} <= container["resources"][bound].keys(), name
    options = one(objects(path), "RayService")["spec"]["rayClusterConfig"].get("autoscalerOptions", {})
    assert not options or {"cpu", "memory"} <= options["resources"]["limits"].keys()
    for spec in pod_templates(objects(path)).values():
        # A disk that nobody bounds is one that fills its node.
        assert all("sizeLimit" in v["emptyDir"] for v in spec["volumes"] if "emptyDir" in v)


@ALL
def test_no_secret_stands_in_an_environment_or_outside_a_secret(path: Path | None) -> None:
    things = objects(path)
    for name, container in containers(things):
        for entry in container.get("env", []):
            # The one key in an environment: of the pod of `helm test`, which ends with its clip.
            if "secretKeyRef" in entry.get("valueFrom", {}):
                assert (name, entry["name"]) == ("test", "LIVEACT_TOKEN")
            else:
                assert "value" in entry or "fieldRef" in entry["valueFrom"]
            told = entry.get("value", "")
            assert not TELLING.search(entry["name"]) or "valueFrom" in entry or told.startswith("/etc/liveact/")
        assert "envFrom" not in container or container["name"] == "weights"
    text = yaml.safe_dump_all([thing for thing in things if thing["kind"] != "Secret"])
    assert not re.search(r"://[^\s/@]*:[^\s/@]+@", text), "a URL with a password"
    for secret in (thing for thing in things if thing["kind"] == "Secret"):
        assert not any(str(value) in text for value in secret["stringData"].values())
    for name, spec in pod_templates(things).items():
        if name not in ("valkey", "test"):
            (mounted,) = [volume["secret"] for volume in spec["volumes"] if volume["name"] == "secrets"]
            assert [item["path"] for item in mounted["items"]] == ["redis_url"]


# ---- a scanner ---------------------------------------------------------------------------------------------------------------

ACCEPTED = {
    "CKV_K8S_8": "KubeRay gives Ray's containers their probes; a test's pod ends by itself",
    "CKV_K8S_9": "the same",
    "CKV_K8S_15": "images are of a version, best by digest: pulling always would make a registry part of every start",
    "CKV_K8S_35": "the key of `helm test`, and what an object store's libraries read",
    "CKV_K8S_38": "the autoscaler, in the head, and the watcher ask Kubernetes for pods",
    "CKV_K8S_43": "digests are for whoever builds the images to give; air-gapped.yaml does",
}
"""Rules of checkov that the examples break, and why."""


def scan(folder: Path, framework: str) -> set[tuple[str, str]]:
    """What checkov finds in the folder: rule and resource."""
    words = ["-d", str(folder), "--framework", framework, "--skip-download", "--quiet", "--compact", "-o", "json"]
    done = subprocess.run([str(CHECKOV), *words], capture_output=True, text=True, timeout=300, check=False)
    found = json.loads(done.stdout)
    assert framework == "secrets" or found["summary"]["passed"] > 100, done.stdout + done.stderr
    return {(one["check_id"], one["resource"]) for one in found.get("results", {}).get("failed_checks", [])}


@pytest.mark.slow
@pytest.mark.skipif(CHECKOV is None, reason="`make test-slow` installs checkov")
@ALL
def test_checkov_finds_nothing_but_what_is_accepted(path: Path | None, tmp_path: Path) -> None:
    things = [thing for thing in objects(path) if thing["kind"] != "Secret"]
    # A RayService is no kind that it knows: what KubeRay makes of it is.
    things += [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "avatars"}, "spec": spec}
        for name, spec in pod_templates(objects(path)).items()
        if name not in ("valkey", "test")
    ]
    (tmp_path / "rendered.yaml").write_text(yaml.safe_dump_all(things))
    found = scan(tmp_path, "kubernetes")
    assert {rule for rule, _ in found} <= ACCEPTED.keys(), sorted(found)
    ray = {"Pod.avatars.head"} | {f"Pod.avatars.{name}" for name in pod_templates(objects(path))}
    probes = {resource for rule, resource in found if rule in ("CKV_K8S_8", "CKV_K8S_9")}
    assert probes <= ray | {"Pod.avatars.demo-liveact-test-stream"}
    assert scan(tmp_path, "secrets") == set()


@pytest.mark.slow
@pytest.mark.skipif(CHECKOV is None, reason="`make test-slow` installs checkov")
def test_checkov_would_find_a_privileged_pod_and_a_password(tmp_path: Path) -> None:
    spec = copy.deepcopy(pod_templates(objects(None))["cpu"])
    spec["containers"][0]["securityContext"]["privileged"] = True
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "cpu", "namespace": "avatars"}, "spec": spec}
    secret = one(objects(None), "Secret", "ray-auth")
    (tmp_path / "rendered.yaml").write_text(yaml.safe_dump_all([pod, secret, *objects(None)]))
    assert ("CKV_K8S_16", "Pod.avatars.cpu") in scan(tmp_path, "kubernetes")
    assert scan(tmp_path, "secrets")
