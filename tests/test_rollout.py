"""`liveact cluster rollout` and the watcher's part in it, against an API server in memory and a KubeRay by script."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kube_fixtures import FakeCluster
from kuberay_fixtures import BAD, BETTER, CRASHING, GOOD, FakeKubeRay, Pretended, config_of
from liveact_services.cluster.rollout import with_images
from liveact_services.cluster.succession import Succession
from liveact_services.sessions import Database, EmbeddedValkey
from liveact_services.sessions.clusters import Clusters

pytest_plugins = ["kube_fixtures", "session_fixtures"]
QUICK = ("--every", "0.1", "--settled", "0.2", "--failing", "0.3", "--wait", "5", "--json")


@pytest.fixture
def kuberay(cluster: FakeCluster) -> Iterator[FakeKubeRay]:
    with FakeKubeRay(cluster) as operator:
        operator.until_serving(10)
        yield operator


def held(sessions: int) -> str:
    return (
        "# TYPE ray_liveact_held_sessions gauge\n"
        f'ray_liveact_held_sessions{{deployment="VaeDecoder",replica="c",pool="default"}} {sessions}.0\n'
        f'ray_liveact_held_sessions{{deployment="Denoiser",replica="b",pool="default"}} {max(0, sessions - 1)}.0\n'
    )


def leaving(api: FakeCluster, pod: str, sessions: int) -> None:
    """A pod of which a session goes whenever it is asked."""
    left = [sessions + 1]

    def told() -> str:
        left[0] = max(0, left[0] - 1)
        return held(left[0])

    api.metrics[pod] = told


def test_another_image_serves_once_it_can_and_sessions_leave_the_old_one(
    kuberay: FakeKubeRay,
    run: Callable[..., Any],
) -> None:
    old = kuberay.active
    leaving(kuberay.api, f"{old}-worker", 4)
    found = run("rollout", "--image", BETTER, *QUICK)
    assert (found["from"], found["to"]) == (old, kuberay.active)
    assert old != kuberay.active
    assert (found["sessions_before"], found["sessions_left"], found["rolled_back"], found["failed"]) == (
        4,
        0,
        False,
        "",
    )
    spec = kuberay.api.get("ray.io/v1/rayservices", "avatars-liveact")["spec"]["rayClusterConfig"]
    assert spec == with_images(config_of(GOOD), BETTER, None)
    assert "the images are those of the cluster that serves" in run("rollout", "--image", BETTER, code=3)


@pytest.mark.parametrize(
    ("image", "why"),
    [(BAD, "its application is DEPLOY_FAILED: Denoiser did not start: no such checkpoint"), (CRASHING, "CrashLoopBackOff")],
)  # fmt: skip
def test_a_version_that_fails_is_taken_back_by_itself(
    kuberay: FakeKubeRay,
    run: Callable[..., Any],
    image: str,
    why: str,
) -> None:
    old = kuberay.active
    found = run("rollout", "--image", image, *QUICK, code=1)
    assert found["rolled_back"]
    assert why in found["failed"]
    waited = threading.Event()
    for _ in range(100):
        if kuberay.pending == "" and len(kuberay.running) == 1:
            break
        waited.wait(0.05)
    assert (kuberay.active, kuberay.pending, list(kuberay.running)) == (old, "", [old])
    assert kuberay.api.get("ray.io/v1/rayservices", "avatars-liveact")["spec"]["rayClusterConfig"] == config_of(GOOD)


def test_one_that_does_not_serve_in_time_is_taken_back_unless_told_not_to(
    kuberay: FakeKubeRay,
    run: Callable[..., Any],
) -> None:
    slow = ("rollout", "--every", "0.1", "--serving", "1", "--failing", "60", "--json")
    found = run(*slow, "--image", CRASHING, "--no-rollback", code=1)
    assert "does not serve after 1 s" in found["failed"]
    assert not found["rolled_back"]
    assert kuberay.pending
    # It is still coming, and can be watched on: now it is taken back.
    assert "is coming already" in run("rollout", "--image", BETTER, code=3)
    assert run(*slow, code=1)["rolled_back"]


def test_an_upgrade_that_helm_began_is_watched(kuberay: FakeKubeRay, run: Callable[..., Any]) -> None:
    assert "is not being exchanged" in run("rollout", code=3)
    old = kuberay.active
    held_back = threading.Event()

    class Slow(Pretended):
        def status(self) -> tuple[str, str]:
            return ("RUNNING", "") if held_back.is_set() else ("DEPLOYING", "")

    kuberay._start = Slow
    kube = kuberay.api.kube()
    kube.exchange(kube.ray_service(), config_of(BETTER))
    threading.Timer(1.5, held_back.set).start()
    while not kuberay.pending:
        threading.Event().wait(0.05)
    assert run("rollout", *QUICK)["from"] == old


def test_sessions_that_stay_are_told_of(kuberay: FakeKubeRay, run: Callable[..., Any]) -> None:
    kuberay.api.metrics[f"{kuberay.active}-worker"] = held(3)
    found = run("rollout", "--image", BETTER, "--every", "0.1", "--settled", "0.1", "--wait", "0.5", "--json", code=1)
    assert (found["sessions_left"], found["rolled_back"]) == (3, False)


def test_the_new_images_go_where_they_belong() -> None:
    changed = with_images(config_of(GOOD), "cpu:2", "gpu:2")

    def images(group: dict[str, Any]) -> list[str]:
        spec = group["template"]["spec"]
        return [one["image"] for one in (*spec["initContainers"], *spec["containers"])]

    assert images(changed["headGroupSpec"]) == ["cpu:2", "cpu:2", "other:1"]
    assert [images(group)[0] for group in changed["workerGroupSpecs"]] == ["cpu:2", "gpu:2"]
    assert with_images(config_of(GOOD), None, None) == config_of(GOOD)


# ---- the watcher's part


async def test_the_watcher_has_the_cluster_left_in_whose_place_another_serves(
    kuberay: FakeKubeRay,
    run: Callable[..., Any],
    valkey: EmbeddedValkey,
) -> None:
    import asyncio

    said: list[str] = []
    kube = kuberay.api.kube()
    succession = Succession(kube, valkey.url, said.append)
    clusters = Clusters(Database.connect(valkey.url))
    old = kuberay.active
    await asyncio.to_thread(succession.look)
    assert not await clusters.leaving(old)
    await asyncio.to_thread(run, "rollout", "--image", BETTER, *QUICK)
    new = kuberay.active
    await asyncio.to_thread(succession.look)
    assert (await clusters.leaving(old), await clusters.leaving(new)) == (True, False)
    await asyncio.to_thread(succession.look)
    assert said == [
        f"cluster {old} serves", f"cluster {old} is left: its sessions go to the one that serves", f"cluster {new} serves",
    ]  # fmt: skip


async def test_the_word_is_said_again_when_redis_is_back(kuberay: FakeKubeRay, valkey: EmbeddedValkey) -> None:
    import asyncio

    said: list[str] = []
    succession = Succession(kuberay.api.kube(), "redis://127.0.0.1:1", said.append)
    await asyncio.to_thread(succession.look)
    assert "said again later" in said[0]
    succession.redis_url = valkey.url
    await asyncio.to_thread(succession.look)
    assert said[1:] == [f"cluster {kuberay.active} serves"]
