"""The laptop example's serveConfigV2 on a real Ray cluster of this machine, deployed as KubeRay does it, streaming a clip."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chart_fixtures import CHART, example, one, pod_templates, render, serve_config
from conftest import ROOT
from liveact_services.service import free_port
from liveact_services.sessions import EmbeddedValkey

START_S = 240.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


@dataclass(frozen=True)
class Cluster:
    """A running Ray of one labelled node, with the authentication that the chart asks for."""

    dashboard: str
    environment: dict[str, str]
    objects: list[dict[str, Any]]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )

    def deploy(self, config: dict[str, Any], folder: Path) -> None:
        (folder / "serve.yaml").write_text(yaml.safe_dump(config))
        serve = "from ray.serve.scripts import cli; cli()"
        done = self.run(sys.executable, "-c", serve, "deploy", str(folder / "serve.yaml"), "-a", self.dashboard)
        assert done.returncode == 0, done.stdout + done.stderr

    def replicas(self) -> dict[str, set[str]]:
        """Ids of the running replicas by deployment, as the dashboard tells them."""
        token = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        request = urllib.request.Request(f"{self.dashboard}/api/serve/applications/", headers=token)
        with urllib.request.urlopen(request, timeout=10) as answer:
            found = json.load(answer)["applications"].get("liveact", {"deployments": {}})
        return {
            name: {r["replica_id"] for r in deployment["replicas"] if r["state"] == "RUNNING"}
            for name, deployment in found["deployments"].items()
        }


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    objects = render(example(CHART / "examples" / "laptop-cpu.yaml"))
    spec = one(objects, "RayService")["spec"]["rayClusterConfig"]
    (group,) = spec["workerGroupSpecs"]
    port, dashboard = free_port(), free_port()
    # Not pytest's folder: Ray puts sockets there, whose paths are short.
    with (
        tempfile.TemporaryDirectory(prefix="ray-") as temporary,
        EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as valkey,
    ):
        environment = {
            **os.environ, "LIVEACT_SECRETS_DIR": str(secret), "RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(24), "RAY_USAGE_STATS_ENABLED": "0",
        }  # fmt: skip
        labels = ",".join(f"{key}={value}" for key, value in group["labels"].items())
        # As KubeRay starts a pod of the group, on one machine: this node is the head too.
        words = [
            "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}", f"--labels={labels}",
            "--num-cpus=4", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--object-store-memory=200000000",
            f"--temp-dir={temporary}", f"--ray-client-server-port={free_port()}",
        ]  # fmt: skip
        with (tmp_path_factory.mktemp("ray") / "log").open("w") as log:
            without = {name: value for name, value in environment.items() if name != "RAY_ADDRESS"}
            starter = "from ray.scripts.scripts import main; main()"
            head = subprocess.Popen([sys.executable, "-c", starter, *words], env=without, stdout=log, stderr=log)
        try:
            told = f"http://127.0.0.1:{dashboard}/api/version"
            _wait(lambda: _answers(told, environment), "the dashboard", head)
            yield Cluster(f"http://127.0.0.1:{dashboard}", environment, objects)
        finally:
            family = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
            head.terminate()
            head.wait(60)
            for process in psutil.wait_procs(family, timeout=20)[1]:
                process.kill()


def _answers(url: str, environment: dict[str, str]) -> bool:
    token = {"Authorization": f"Bearer {environment['RAY_AUTH_TOKEN']}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=token), timeout=5):
            return True
    except OSError:
        return False


def _wait(ready: Callable[[], bool], what: str, process: subprocess.Popen[bytes] | None = None) -> None:
    until = time.monotonic() + START_S
    while not ready():
        assert process is None or process.poll() is None, f"what {what} belongs to has ended"
        assert time.monotonic() < until, f"{what} does not answer"
        time.sleep(0.5)


def _serving(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.RpcError:
            return False
        return answer.status == health_pb2.HealthCheckResponse.SERVING


def test_the_laptop_example_deploys_streams_its_clip_scales_without_restarts_and_leaves(
    cluster: Cluster, tmp_path: Path
) -> None:
    config = serve_config(cluster.objects)
    # The one change: this machine's ports may be taken.
    config["grpc_options"]["port"], config["http_options"]["port"] = free_port(), free_port()
    address = f"127.0.0.1:{config['grpc_options']['port']}"
    cluster.deploy(config, tmp_path)
    _wait(lambda: _serving(address), "the service")

    # The clip, with the very words of the `helm test` pod.
    (container,) = pod_templates(cluster.objects)["test"]["containers"]
    words = [address if word.endswith(":9000") else word for word in [*container["command"], *container["args"]]]
    words = [str(tmp_path / "clip.mp4") if word == "/tmp/clip.mp4" else word for word in words]
    liveact = "from liveact_services.cli.main import main; main()"
    assert words[0] == "liveact"
    done = cluster.run(sys.executable, "-c", liveact, *words[1:])
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["frames"] > 150, report
    assert (tmp_path / "clip.mp4").stat().st_size > 10_000

    # A count is changed where the chart puts it: one replica more, and none of the others exchanged.
    before = cluster.replicas()
    (entry,) = [e for e in config["applications"][0]["deployments"] if e["name"] == "AudioEncoder"]
    entry["num_replicas"] = 2
    cluster.deploy(config, tmp_path)
    _wait(lambda: len(cluster.replicas()["AudioEncoder"]) == 2, "a second AudioEncoder")
    after = cluster.replicas()
    assert all(ids <= after[name] for name, ids in before.items())

    # And the preStop of a worker, which finds nothing to wait for.
    (worker,) = pod_templates(cluster.objects)["cpu"]["containers"]
    _, *leave = worker["lifecycle"]["preStop"]["exec"]["command"]
    left = cluster.run(sys.executable, *leave[:-1], "30")
    assert left.returncode == 0, left.stdout + left.stderr
    assert "no stream is left" in left.stdout or left.stdout.count("holds 0") == 2, left.stdout
