"""The laptop example's serveConfigV2 on a real Ray cluster of this machine, deployed as KubeRay does it, streaming a clip."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chart_fixtures import CHART, objects, one, pod_templates, serve_config
from conftest import ROOT
from failover_fixtures import Watched
from kube_fixtures import fake_cluster
from liveact.v1 import avatar_pb2 as pb
from liveact_services.client import AvatarClient, AvatarSession
from liveact_services.cluster.api import ClusterError
from liveact_services.cluster.logs import AUTHORIZATION, read_logs
from liveact_services.service import free_port
from liveact_services.sessions import EmbeddedValkey
from test_service import say, session, speech

START_S = 240.0
AGENTS = ("dashboard-agent-grpc", "dashboard-agent-listen", "runtime-env-agent", "metrics-export")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


@dataclass
class Cluster:
    """A Ray like the chart's on one machine: a head without CPUs, pods of a group, and the authentication that is asked for."""

    folder: Path
    objects: list[dict[str, Any]]
    environment: dict[str, str]
    dashboard: str
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """A node of Ray, as `ray start` in a pod: tried again when it ends before it has started, as a pod is."""
        starter = "from ray.scripts.scripts import main; main()"
        environment = {name: value for name, value in self.environment.items() if name != "RAY_ADDRESS"}
        for _ in range(4):
            # With ports of its own the node need not wait for its agents, for which Ray has half a minute.
            ports = [f"--{name}-port={free_port()}" for name in AGENTS]
            common = ["start", "--block", "--node-ip-address=127.0.0.1", "--object-store-memory=200000000", *ports]
            log = self.folder / f"node-{len(self.nodes)}"
            with log.open("w") as file:
                line = [sys.executable, "-c", starter, *common, *words]
                node = subprocess.Popen(line, env=environment, stdout=file, stderr=file, start_new_session=True)
            self.nodes.append(node)
            while node.poll() is None:
                if "Ray runtime started" in log.read_text():
                    return node
                time.sleep(0.5)
            self.stop(node)
        raise AssertionError(log.read_text())

    def pod(self) -> subprocess.Popen[bytes]:
        """A node of the one group of workers."""
        (group,) = one(self.objects, "RayService")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
        labels = ",".join(f"{key}={value}" for key, value in group["labels"].items())
        return self.start(f"--address={self.environment['RAY_ADDRESS']}", "--num-cpus=4", f"--labels={labels}")

    def stop(self, node: subprocess.Popen[bytes]) -> None:
        """End a node as Kubernetes ends a pod, and all that it started."""
        # Its own session's, whether or not their parent is still there.
        family = [process for process in psutil.process_iter() if _session_of(process) == node.pid]
        node.terminate()
        for process in psutil.wait_procs(family, timeout=40)[1]:
            process.kill()
        node.wait(20)

    def deploy(self, config: dict[str, Any]) -> None:
        (self.folder / "serve.yaml").write_text(yaml.safe_dump(config))
        serve = "from ray.serve.scripts import cli; cli()"
        done = self.run(sys.executable, "-c", serve, "deploy", str(self.folder / "serve.yaml"), "-a", self.dashboard)
        assert done.returncode == 0, done.stdout + done.stderr

    def replicas(self) -> dict[str, dict[str, str]]:
        """The node of every running replica, by deployment and id, as the dashboard tells them."""
        token = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        request = urllib.request.Request(f"{self.dashboard}/api/serve/applications/", headers=token)
        with urllib.request.urlopen(request, timeout=10) as answer:
            found = json.load(answer)["applications"].get("liveact", {"deployments": {}})
        return {
            name: {r["replica_id"]: r["node_id"] for r in deployment["replicas"] if r["state"] == "RUNNING"}
            for name, deployment in found["deployments"].items()
        }


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    port, dashboard, folder = free_port(), free_port(), tmp_path_factory.mktemp("cluster")
    # Not pytest's folder: Ray puts sockets there, whose paths are short.
    with (
        tempfile.TemporaryDirectory(prefix="ray-") as temporary,
        EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as valkey,
    ):
        (folder / "secrets").mkdir()
        (folder / "secrets" / "redis_url").write_text(valkey.url)
        environment = {
            **os.environ, "LIVEACT_SECRETS_DIR": str(folder / "secrets"), "RAY_ADDRESS": f"127.0.0.1:{port}",
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(24), "RAY_USAGE_STATS_ENABLED": "0",
            # What nobody waits for here: a real pod's proxy stays for those that have not heard yet that it goes.
            "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "5",
        }  # fmt: skip
        made = Cluster(
            folder, objects(CHART / "examples" / "laptop-cpu.yaml"), environment, f"http://127.0.0.1:{dashboard}"
        )
        try:
            head = made.start(
                "--head", f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--num-cpus=0",
                f"--temp-dir={temporary}", f"--ray-client-server-port={free_port()}",
            )  # fmt: skip
            _wait(lambda: _answers(f"{made.dashboard}/api/version", environment), "the dashboard", head)
            yield made
        finally:
            for node in reversed(made.nodes):
                made.stop(node)


@pytest.fixture(scope="module")
def deployed(cluster: Cluster) -> tuple[str, dict[str, Any], subprocess.Popen[bytes]]:
    """The laptop example, serving on one pod: its address, what was deployed, the pod."""
    pod = cluster.pod()
    config = serve_config(cluster.objects)
    # The one change: this machine's ports may be taken.
    config["grpc_options"]["port"], config["http_options"]["port"] = free_port(), free_port()
    address = f"127.0.0.1:{config['grpc_options']['port']}"
    cluster.deploy(config)
    _wait(lambda: _serving(address), "the service", pod)
    return address, config, pod


def _session_of(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return None


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


def test_the_laptop_example_deploys_streams_its_clip_and_scales_without_restarts(
    cluster: Cluster, deployed: tuple[str, dict[str, Any], Any], tmp_path: Path
) -> None:
    address, config, _ = deployed
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
    cluster.deploy(config)
    _wait(lambda: len(cluster.replicas()["AudioEncoder"]) == 2, "a second AudioEncoder")
    after = cluster.replicas()
    assert all(ids.keys() <= after[name].keys() for name, ids in before.items())
    entry["num_replicas"] = 1
    cluster.deploy(config)
    _wait(lambda: len(cluster.replicas()["AudioEncoder"]) == 1, "one AudioEncoder")


def test_logs_of_every_replica_are_read_through_kubernetes_and_rays_dashboard(
    cluster: Cluster, deployed: tuple[str, dict[str, Any], Any]
) -> None:
    def dashboard(path: str, query: dict[str, str], token: str) -> bytes:
        url = f"{cluster.dashboard}/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(urllib.request.Request(url, headers={AUTHORIZATION: token}), timeout=20) as answer:
            return bytes(answer.read())

    token = cluster.environment["RAY_AUTH_TOKEN"]
    with fake_cluster() as api:
        api.dashboard = dashboard
        kube = api.kube()
        service = kube.ray_service()
        lines = list(read_logs(kube, service, token, None, 50))
        denoiser = list(read_logs(kube, service, token, "Denoiser", 50))
        with pytest.raises(ClusterError, match="ask services/"):
            list(read_logs(kube, service, "another-token", None, 50))
    sources = {source for source, _ in lines}
    for deployment in cluster.replicas():
        assert any(f"_{deployment}_" in source for source in sources), deployment
    assert denoiser
    assert {source for source, _ in denoiser} < sources


async def test_a_pod_that_leaves_hands_its_session_to_another_and_no_frame_is_lost(
    cluster: Cluster, deployed: tuple[str, dict[str, Any], subprocess.Popen[bytes]], portrait: bytes
) -> None:
    address, _, pod = deployed
    (node,) = {node for ids in cluster.replicas().values() for node in ids.values()}
    successor = cluster.pod()
    heard = Watched()
    async with AvatarClient(address) as client:
        config = session(portrait, pacing=pb.PACING_REALTIME, idle_policy=pb.IDLE_POLICY_ANIMATE)
        async with client.stream(config) as stream:
            await stream.ready()
            listening = asyncio.create_task(_listen(stream, heard))
            await say(stream, speech(4.0, 1), "before")
            await _until(lambda: len(heard.frames) > 60, listening)

            # The preStop of a worker, with its own words but for the node: two share this machine.
            (worker,) = pod_templates(cluster.objects)["cpu"]["containers"]
            _, *words, wait = worker["lifecycle"]["preStop"]["exec"]["command"]
            assert words[-1] == "--wait"
            assert wait == "60"
            left = await asyncio.to_thread(cluster.run, sys.executable, *words, "100", "--node", node)
            assert "replicas stay on this node" not in left.stdout
            # Both nodes are one machine with one port, so the client comes back through the proxy that is to go.
            last = left.stdout.splitlines()[-1]
            assert left.returncode == 0 or last == "the proxy drains", left.stdout + left.stderr
            print(left.stdout)
            await asyncio.to_thread(cluster.stop, pod)

            seen = len(heard.frames)
            await say(stream, speech(2.0, 2), "after")
            await _until(lambda: len(heard.frames) > seen + 60, listening)
            await stream.close()
            await listening
    assert heard.indices == list(range(len(heard.frames)))
    assert heard.migrations()
    assert any(event.type == pb.EVENT_TYPE_CLOSED for event in heard.events)
    assert successor.poll() is None
    after = {node for ids in cluster.replicas().values() for node in ids.values()}
    assert len(after) == 1
    assert node not in after


async def _listen(stream: AvatarSession, heard: Watched) -> None:
    async for message in stream:
        heard.take(message)


async def _until(condition: Callable[[], bool], running: asyncio.Task[None]) -> None:
    async with asyncio.timeout(START_S):
        while not condition():
            assert not running.done(), running
            await asyncio.sleep(0.2)
