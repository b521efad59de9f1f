"""`liveact cluster` and the node watcher, against a Kubernetes API server in memory."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kube_fixtures import ACTIVE, NAMESPACE, SERVICE, FakeCluster
from liveact_services.cluster.api import ClusterError
from liveact_services.cluster.objects import LEAVING_TAINTS, Node, RayService
from liveact_services.cluster.watch import Watcher

pytest_plugins = ["kube_fixtures"]

METRICS = """# HELP ray_liveact_held_sessions Sessions that a replica holds.
# TYPE ray_liveact_held_sessions gauge
ray_liveact_held_sessions{deployment="Denoiser",replica="a",pool="default"} 2.0
ray_liveact_held_sessions{deployment="Denoiser",replica="b",pool="default"} 1.0
ray_liveact_held_sessions{deployment="VaeDecoder",replica="c",pool="default"} 3.0
# TYPE ray_liveact_session_capacity gauge
ray_liveact_session_capacity{deployment="Denoiser",replica="a",pool="default"} 4.7
ray_liveact_session_capacity{deployment="Denoiser",replica="b",pool="default"} 4.2
"""


# ---- status


def test_status_says_what_there_is_and_who_holds_how_much(cluster: FakeCluster, run: Callable[..., Any]) -> None:
    cluster.metrics["gpu-1"] = METRICS
    cluster.node("two", unschedulable=True)
    found = run("status", "--json")
    assert (found["service"], found["state"], found["active"]) == (SERVICE, "serving", ACTIVE)
    assert [(group["group"], group["pool"], group["ready"], group["max"]) for group in found["groups"]] == [
        ("cpu", None, 1, 1), ("gpu", "default", 2, 4),
    ]  # fmt: skip
    pods = {pod["pod"]: pod for pod in found["pods"]}
    assert pods["gpu-1"]["sessions"] == {"Denoiser": 3, "VaeDecoder": 3}
    assert pods["gpu-2"]["sessions"] == {}, "it does not answer, which keeps nobody from the rest"
    assert pods["gpu-2"]["node_state"] == "cordoned"
    text = run("status")
    assert "3 of about 8" in text
    assert "two (cordoned)" in text


def test_an_upgrade_is_seen_with_the_pods_of_both_clusters(cluster: FakeCluster, run: Callable[..., Any]) -> None:
    coming = f"{SERVICE}-fghij"
    cluster.service(pendingServiceStatus={"rayClusterName": coming})
    cluster.pod("gpu-9", "two", cluster=coming)
    cluster.pod("stranger", "two", cluster="another-service-abcde")
    found = run("status", "--json")
    assert (found["state"], found["pending"]) == ("upgrading", coming)
    assert {pod["pod"] for pod in found["pods"]} == {"head", "cpu-1", "gpu-1", "gpu-2", "gpu-9"}


def test_of_several_services_one_must_be_named(cluster: FakeCluster, run: Callable[..., Any]) -> None:
    cluster.service("other")
    assert f"there are {SERVICE}, other" in run("status", code=3)
    assert run("status", "--service", "other", "--json")["active"] == "other-abcde"
    assert "no RayService 'lost'" in run("status", "--service", "lost", code=3)


def test_an_api_that_is_not_there_or_refuses_is_said_in_words(
    cluster: FakeCluster, run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = cluster.kube()
    dead.client.configuration.host = "http://127.0.0.1:9"
    dead.client.configuration.retries = False
    with pytest.raises(ClusterError, match=r"the Kubernetes API at http://127.0.0.1:9 does not answer"):
        type(dead)(NAMESPACE, type(dead.client)(dead.client.configuration)).nodes()
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    assert "no cluster is configured" in run("status", code=4)


# ---- scale


def test_a_group_gets_other_counts_and_no_other_group_does(cluster: FakeCluster, run: Callable[..., Any]) -> None:
    found = run("scale", "gpu", "--replicas", "6", "--json")
    assert (found["replicas"], found["min"], found["max"]) == (6, 1, 6)
    groups = cluster.get("ray.io/v1/rayservices", SERVICE)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert [(group["replicas"], group["minReplicas"], group["maxReplicas"]) for group in groups] == [
        (1, 1, 1),
        (6, 1, 6),
    ]


def test_with_the_autoscaler_only_its_bounds_are_changed(cluster: FakeCluster, run: Callable[..., Any]) -> None:
    cluster.service(autoscaled=True)
    assert "the autoscaler decides" in run("scale", "gpu", "--replicas", "3", code=3)
    found = run("scale", "gpu", "--min", "3", "--json")
    assert (found["replicas"], found["min"], found["max"]) == (3, 3, 4)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("tpu", "--min", "1"), "no worker group 'tpu': there are cpu, gpu"),
        (("gpu",), "nothing to change is named"),
        (("gpu", "--min", "9"), "--min 9 is more than --max 4"),
        (("gpu", "--replicas", "9", "--max", "5"), "--replicas 9: accepted are 1 to 5"),
    ],
)
def test_counts_that_make_no_sense_are_refused(run: Callable[..., Any], words: tuple[str, ...], told: str) -> None:
    assert told in run("scale", *words, code=3)


# ---- drain


def test_a_node_is_cordoned_and_its_workers_leave_it(cluster: FakeCluster, run: Callable[..., Any]) -> None:
    found = run("drain", "one", "--wait", "20", "--json")
    assert found == {"node": "one", "cordoned": True, "left": []}
    assert cluster.evicted == ["cpu-1", "gpu-1"], "the head holds no session and goes with the rest of the node"
    assert cluster.get("v1/nodes", "one", None)["spec"]["unschedulable"] is True
    assert run("drain", "one", "--undo", "--json")["cordoned"] is False
    assert cluster.get("v1/nodes", "one", None)["spec"]["unschedulable"] is False


def test_a_pod_that_a_budget_keeps_is_asked_again(cluster: FakeCluster, run: Callable[..., Any]) -> None:
    asked: list[str] = []

    def after_two(pod: str) -> bool:
        asked.append(pod)
        return asked.count(pod) > 2

    cluster.budget = after_two
    assert "a disruption budget says so" in run("drain", "two", "--wait", "30")
    assert cluster.evicted == ["gpu-2"]
    assert asked == ["gpu-2"] * 3


def test_a_pod_whose_sessions_do_not_move_in_time_is_named(cluster: FakeCluster, run: Callable[..., Any]) -> None:
    cluster.lingers = True
    assert "gpu-2 did not leave node two in 3 s" in run("drain", "two", "--wait", "3", code=1)
    assert cluster.evicted == ["gpu-2"], "it was told once and is leaving"


def test_an_unknown_node_is_named_with_those_that_there_are(run: Callable[..., Any]) -> None:
    assert "no node 'three': there are one, two" in run("drain", "three", code=3)


# ---- logs


def test_logs_come_from_the_dashboard_of_the_head_with_rays_token(
    cluster: FakeCluster, run: Callable[..., Any]
) -> None:
    import base64

    cluster.put("v1/secrets", f"{SERVICE}-ray-auth", {"data": {"auth_token": base64.b64encode(b"ray-token").decode()}})
    seen = []

    def dashboard(path: str, query: dict[str, str], token: str) -> bytes:
        seen.append((path, token))
        if path == "nodes":
            rows = [{"raylet": {"nodeId": "n1", "state": "ALIVE"}}, {"raylet": {"nodeId": "n2", "state": "DEAD"}}]
            return json.dumps({"result": True, "data": {"summary": rows}}).encode()
        if path == "api/v0/logs":
            files = ["serve/replica_liveact_Denoiser_a.log", "serve/replica_liveact_Gateway_b.log", "serve/x.txt"]
            return json.dumps({"result": True, "data": {"result": {"serve": files}}}).encode()
        return b"1first of session-7\nsecond of session-8\n"

    cluster.dashboard = dashboard
    text = run("logs", "Denoiser", "--contains", "session-7")
    assert text.strip() == "replica_liveact_Denoiser_a.log: first of session-7"
    assert {token for _, token in seen} == {"Bearer ray-token"}
    assert len(run("logs").splitlines()) == 4


# ---- nodes that go


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (Node("n", True, (), ()), "cordoned"),
        (Node("n", False, ("node.kubernetes.io/disk-pressure",), ("Ready",)), ""),
        (Node("n", False, ("aws-node-termination-handler/spot-itn",), ()), "tainted aws-node-termination-handler/spot-itn"),
        (Node("n", False, ("cloud.google.com/impending-node-termination",), ()),
         "tainted cloud.google.com/impending-node-termination"),
        (Node("n", False, (), ("VMEventScheduled",)), "VMEventScheduled"),
        (Node("n", False, ("example.com/going",), ()), ""),
    ],
)  # fmt: skip
def test_nodes_that_go_are_known_by_what_says_so(node: Node, why: str) -> None:
    assert node.going() == why
    assert Node("n", False, ("example.com/going",), ()).going(["example.com/going"]) == "tainted example.com/going"
    assert all(
        Node("n", False, (taint.rstrip("/") + ("/x" * taint.endswith("/")),), ()).going() for taint in LEAVING_TAINTS
    )


def test_the_watcher_evicts_when_a_node_goes_and_from_no_other(cluster: FakeCluster) -> None:
    told: list[str] = []
    watcher = Watcher(cluster.kube(), told=told.append)
    assert watcher.look() == []
    cluster.node("two", taints=[{"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}])
    assert [pod.name for pod in watcher.look()] == ["gpu-2"]
    assert watcher.look() == []
    assert told == ["node two is tainted karpenter.sh/disrupted: its workers leave", "gpu-2 leaves node two"]


def test_the_watcher_hears_of_a_node_at_once_and_of_nothing_by_errors(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It runs for ever: through an API that fails meanwhile, too."""
    alive = tmp_path / "alive"
    monkeypatch.setattr("liveact_services.cluster.watch.AFTER_ERROR_S", 0.1)
    told: list[str] = []
    kube = cluster.kube()
    failing = iter([True])
    listed = kube.nodes

    def nodes() -> list[Node]:
        if next(failing, False):
            raise ClusterError("cannot list nodes: HTTP 500")
        return listed()

    kube.nodes = nodes  # type: ignore[method-assign]
    stopped = threading.Event()
    watcher = Watcher(kube, told=told.append, alive=alive)
    watching = threading.Thread(target=watcher.run, args=(stopped.is_set,), daemon=True)
    watching.start()
    until(lambda: any("asking again" in line for line in told))
    assert alive.exists(), "a probe sees that it looks, also while nobody answers"
    cluster.kube().cordon("two")
    began = time.monotonic()
    until(lambda: cluster.evicted == ["gpu-2"])
    assert time.monotonic() - began < 5
    stopped.set()
    # It is asked with the next event.
    cluster.kube().cordon("two", False)
    watching.join(15)
    assert not watching.is_alive()


def until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


def test_a_service_without_a_status_is_not_ready() -> None:
    found = RayService.of({"metadata": {"name": "new"}, "spec": {"rayClusterConfig": {}}})
    assert (found.state, found.clusters, found.groups) == ("not ready", [], ())
