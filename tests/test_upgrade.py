"""Clusters are exchanged under live sessions, as a platform does it: no stream is cut for good, no frame lost, no byte another.

The clusters are real, each with a Ray of its own, and so are Redis, the watcher and the commands. In memory are Kubernetes' API
and, by script, what KubeRay does with it; in place of the Service stands a forwarder that leads new connections to the active.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from failover_fixtures import Watched, watch
from kube_fixtures import FakeCluster, kubeconfig
from kuberay_fixtures import BAD, BETTER, FakeKubeRay
from liveact.v1 import avatar_pb2 as pb
from liveact_services.cli.bench.chaos.forwarder import Forwarder
from liveact_services.client import AvatarClient
from liveact_services.cluster.succession import Succession
from liveact_services.cluster.watch import Watcher
from liveact_services.sessions import EmbeddedValkey
from test_redeploy import Live, one, voice
from test_service import RATE, session
from upgrade_fixtures import START_S, LocalCluster

pytest_plugins = ["kube_fixtures", "session_fixtures"]

SESSIONS = 4
SETTINGS = {
    "checkpoint": "untrained", "sessions.max_utilisation": 1000, "sessions.max_pending_voice_s": 1000,
}  # fmt: skip
"""Sessions are admitted however slow the machine, and all that is said is sent at once."""


@dataclass
class Platform:
    """What a user and an operator have before them."""

    kuberay: FakeKubeRay
    front: Forwarder
    environment: dict[str, str]

    @property
    def holds(self) -> dict[str, int]:
        """Sessions of each cluster's Denoisers."""
        kube = self.kuberay.api.kube()
        found = {pod.cluster: kube.sessions(pod) for pod in kube.pods() if pod.ready}
        return {name: sum(o.held for o in held if o.deployment == "Denoiser") for name, held in found.items() if held}

    async def rollout(self, *words: str) -> tuple[int, dict[str, Any], str]:
        """Exit status, result and what it said meanwhile."""
        command = [sys.executable, "-m", "liveact_services.cli.main", "cluster", "rollout", "--json", *words]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=self.environment
        )
        out, said = await process.communicate()
        assert process.returncode is not None
        return process.returncode, json.loads(out.decode().splitlines()[-1]), said.decode()


@asynccontextmanager
async def platform(api: FakeCluster, redis: str, folder: Path) -> AsyncIterator[Platform]:
    """One cluster that serves, KubeRay, the watcher, and an address in front."""
    made: dict[str, LocalCluster] = {}

    def start(name: str, image: str) -> LocalCluster:
        settings = {**SETTINGS, **({"checkpoint": folder / "no-such-checkpoint"} if image == BAD else {})}
        made[name] = LocalCluster(name, redis, folder, **settings)
        api.metrics[f"{name}-worker"] = made[name].metrics
        return made[name]

    stopped = threading.Event()
    kube = api.kube()
    watcher = Watcher(kube, succession=Succession(kube, redis, print))
    watching = threading.Thread(target=watcher.run, args=(stopped.is_set,), daemon=True)
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig(api, folder / "kubeconfig"))}
    with FakeKubeRay(api, start) as kuberay:
        await asyncio.to_thread(kuberay.until_serving, START_S)
        async with Forwarder(made[kuberay.active].address) as front:
            kuberay.switched = lambda name: front.lead(made[name].address)
            watching.start()
            try:
                yield Platform(kuberay, front, environment)
            finally:
                stopped.set()
                await asyncio.to_thread(watching.join, 30)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_an_upgrade_under_live_sessions_and_one_that_is_taken_back(
    cluster: FakeCluster, valkey: EmbeddedValkey, portrait: bytes, tmp_path: Path
) -> None:
    lives = [Live(number) for number in range(SESSIONS)]

    async def further(frames: int) -> None:
        since = [len(live.heard.frames) for live in lives]
        async with asyncio.timeout(120):
            while any(len(live.heard.frames) < had + frames for live, had in zip(lives, since, strict=True)):
                await asyncio.sleep(0.2)

    async with platform(cluster, valkey.url, tmp_path) as there, AvatarClient(there.front.address) as client:
        streams = [asyncio.create_task(one(client, portrait, live)) for live in lives]
        await further(100)
        old = there.kuberay.active

        # One that cannot serve: nobody notices.
        code, found, said = await there.rollout("--image", BAD)
        print(said)
        assert (code, found["rolled_back"]) == (1, True)
        assert "no-such-checkpoint" in found["failed"]
        assert there.kuberay.active == old
        await further(40)
        assert not any(live.heard.migrations() for live in lives)

        # One that serves: all follow.
        asked = time.perf_counter()
        code, found, said = await there.rollout("--image", BETTER, "--settled", "10", "--wait", "120")
        print(said)
        assert (code, found["sessions_before"], found["sessions_left"]) == (0, SESSIONS, 0)
        assert all(live.heard.migrations() for live in lives)
        assert there.holds == {old: 0, there.kuberay.active: SESSIONS}
        await asyncio.to_thread(there.kuberay.running[old].stop)
        await further(100)
        for stream in streams:
            assert not stream.done(), stream
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)

        longest = max(len(live.heard.frames) for live in lives) / lives[0].fps + 8
        alike = [session(portrait, codec=pb.VIDEO_CODEC_JPEG, seed=live.seed) for live in lives]
        expected: list[Watched] = await asyncio.gather(
            *(watch(client, config, voice(config.seed)[: int(longest * RATE)]) for config in alike)
        )
    for live, alone in zip(lives, expected, strict=True):
        assert not live.viewer.error
        assert live.heard.indices == list(range(len(live.heard.frames)))
        assert live.heard.bytes == alone.bytes[: len(live.heard.frames)]
    moved = [e.migrated.stall.ToTimedelta().total_seconds() for live in lives for e in live.heard.migrations()]
    stalls = {
        name: [length for live in lives for at, length in live.viewer.stalls if (at > asked) == late]
        for name, late in (("before", False), ("since", True))
    }
    for name, lengths in stalls.items():
        print(
            f"{name} the upgrade: longest stall of a viewer {max(lengths, default=0.0):.2f} s, {sum(lengths):.1f} s in all"
        )
    print(f"{len(moved)} MIGRATED, the longest {max(moved):.2f} s; frames {[len(live.heard.frames) for live in lives]}")
