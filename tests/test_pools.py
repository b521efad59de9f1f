"""Pools: Denoisers that a tenant has to itself, from the configuration to the calls of its sessions."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray import serve

from conftest import pcm16, tone
from liveact.v1 import avatar_pb2 as pb
from liveact_models.timeline import block_sound_frames
from liveact_models.voice import VoiceBuffer
from liveact_services.client import AvatarClient, RecordedVoice, speak
from liveact_services.conductor.parts import Part
from liveact_services.conductor.stages import BlockPlan
from liveact_services.config import SessionLimits, load_config
from liveact_services.errors import ClientError
from liveact_services.gateway.serve_stages import ServeGraph, StageHandles, serve_stages
from liveact_services.graph import build
from liveact_services.service import start_service
from stage_fixtures import FPS, RATE, session_spec
from tenant_fixtures import Tenants, picture

pytest_plugins = ["tenant_fixtures"]

POOLS: dict[str, Any] = {"gold": {"replicas": 3, "num_cpus": 0.2}, "silver": {"max_ongoing_requests": 7}}


def bound(config: Any) -> dict[str, Any]:
    """The deployments of the graph, by name, as Serve would deploy them."""
    from ray.serve._private.build_app import build_app

    built = build_app(build(config, "redis://nowhere"), name="app", default_runtime_env=None)
    return {deployment.name: deployment for deployment in built.deployments}


def test_every_pool_has_a_denoiser_deployment_with_replicas_of_its_own() -> None:
    deployments = bound(load_config(checkpoint="untrained", pools=POOLS, denoiser={"replicas": 2}))
    denoisers = {name: d for name, d in deployments.items() if name.startswith("Denoiser")}
    assert {name: d.num_replicas for name, d in denoisers.items()} == {
        "Denoiser": 2, "Denoiser-gold": 3, "Denoiser-silver": 1,
    }  # fmt: skip
    assert denoisers["Denoiser-gold"].ray_actor_options["num_cpus"] == 0.2
    held = load_config().sessions.max_sessions
    assert denoisers["Denoiser-silver"].max_ongoing_requests == 7 + held, "a session that is held has one call open"
    assert len(deployments) == 9, "the other stages and the Vault serve every pool"


def test_serve_asks_every_replica_as_often_as_the_configuration_says() -> None:
    config = load_config(checkpoint="untrained", health_check_period_s=3, health_check_timeout_s=7)
    asked = [deployment._deployment_config for deployment in bound(config).values()]
    assert {(one.health_check_period_s, one.health_check_timeout_s) for one in asked} == {(3.0, 7.0)}


def test_without_pools_there_is_one_denoiser() -> None:
    assert sorted(bound(load_config(checkpoint="untrained"))) == [
        "AudioEncoder", "Conditioner", "Denoiser", "Gateway", "VaeDecoder", "VaeEncoder", "Vault",
    ]  # fmt: skip


class Stage:
    """Answers the calls of a session, as any stage or the Vault, and says what it was asked."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.asked: list[str] = []

    async def open(self, spec: Any, *conditions: Any, attempt: int) -> str:
        self.asked.append(f"open {spec.session}")
        return f"{self._name}-1"

    async def adopt(self, spec: Any, exported: bytes, attempt: int) -> str:
        self.asked.append(f"adopt {spec.session}")
        return f"{self._name}-1"

    async def settle(self, session: str, attempt: int) -> int:
        self.asked.append(f"settle {session}")
        return 0

    async def denoise(
        self, session: str, block: int, features: Any, text: Any, attempt: int, due_s: float | None, trace: str
    ) -> None:
        self.asked.append(f"denoise {session}")

    async def hold(self, session: str) -> AsyncIterator[bool]:
        while f"close {session}" not in self.asked:
            yield False
            await asyncio.sleep(0.01)

    async def close(self, session: str, attempt: int) -> None:
        self.asked.append(f"close {session}")

    async def keep(self, session: str) -> None:
        self.asked.append(f"keep {session}")

    async def text(self, prompt: str, trace: str) -> np.ndarray:
        return np.zeros(1)

    async def image(self, portrait: np.ndarray, trace: str) -> np.ndarray:
        return np.zeros(1)

    async def reference(self, portrait: np.ndarray, trace: str) -> np.ndarray:
        return np.zeros(1)

    async def encode(self, voice: Any, block: int, trace: str) -> np.ndarray:
        return np.zeros(1)

    async def blocks(self, session: str, part: str) -> list[int]:
        return [0]

    async def get(self, session: str, part: str, block: int) -> bytes:
        return b""

    async def forget(self, session: str, attempt: int) -> None:
        self.asked.append(f"forget {session}")

    async def calls(self) -> list[str]:
        return self.asked


def local(name: str) -> Any:
    """A deployment in this process, behind Serve's own handle."""
    application = serve.deployment(Stage, name=name).bind(name)
    return serve.run(application, name=name, route_prefix=None, _local_testing_mode=True)


async def test_a_sessions_calls_go_to_the_denoisers_of_its_pool() -> None:
    denoisers = {pool: local(f"denoiser-{pool}") for pool in ("default", "gold")}
    other, decoder, vault = local("other"), local("decoder"), local("vault")
    handles = StageHandles(other, other, other, denoisers, decoder, vault)
    for pool in ("gold", "default"):
        stages = serve_stages(handles, SessionLimits())
        await stages.open(session_spec(session=f"of-{pool}", pool=pool), np.zeros((3, 32, 32), np.float32))
        assert stages.replicas == (f"denoiser-{pool}-1", "decoder-1")
        await stages.keep()
        await stages.close()
        asked = [f"{verb} of-{pool}" for verb in ("open", "keep", "close")]
        assert await denoisers[pool].calls.remote() == asked
        assert (await vault.calls.remote())[-1] == f"forget of-{pool}"


async def test_a_session_that_lost_its_denoiser_is_placed_anew_in_its_pool() -> None:
    denoisers = {pool: local(f"denoiser-{pool}") for pool in ("default", "gold")}
    other, decoder = local("other"), local("decoder")
    graph = ServeGraph(StageHandles(other, other, other, denoisers, decoder, other))
    spec, part = session_spec(session="s", pool="gold"), Part.DENOISER
    voice = VoiceBuffer(RATE, FPS)
    voice.append(np.zeros(voice.boundary(block_sound_frames(0).stop), np.float32))
    plan = BlockPlan(0, voice.window(0))
    replica = await graph.adopt(part, spec, 4, 1, replica=None, avoid="denoiser-gold-0")
    assert replica == "denoiser-gold-1"
    assert await graph.adopt(part, spec, 4, 2, replica=replica, avoid="") == replica
    assert await graph.settle(part, replica, spec, 3) == 0
    await graph.made(graph.denoise(replica, spec, plan, 3))
    await graph.keep(part, replica, spec)
    await graph.close(part, replica, spec, 0)
    asked = [f"{verb} s" for verb in ("adopt", "adopt", "settle", "denoise", "keep", "close")]
    assert await denoisers["gold"].calls.remote() == asked
    assert await denoisers["default"].calls.remote() == []


async def drained(*options: str) -> dict[str, Any]:
    """`liveact drain` with these options, at the cluster this process is connected to."""
    words = ["drain", *options, "--json", "--address", ray.get_runtime_context().gcs_address]
    run = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "liveact_services.cli.main", *words],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


async def speaks(client: AvatarClient, session: pb.SessionConfig, voice: RecordedVoice) -> bool:
    """Whether a new session finds a place."""
    try:
        return (await speak(client, session, voice, pace="fastest")).frames > 0
    except ClientError as error:
        if error.reason != "CAPACITY":
            raise
        return False


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_a_tenant_of_a_pool_is_served_by_its_own_denoisers(tenants: Tenants, tmp_path: Path) -> None:
    """A whole service with two pools: each tenant's session appears in its own pool's deployment and in no other."""
    gold, plain = tenants.add("acme", pool="gold"), tenants.add("other")
    config = load_config(
        port=0, http_port=0, data_dir=tmp_path / "data", checkpoint="untrained", tenants=str(tenants.write()),
        pools={"gold": {"replicas": 1}}, sessions={"max_sessions": 1},
    )  # fmt: skip
    running = start_service(config)
    try:
        assert running.status()["Denoiser-gold"] == "HEALTHY"
        session = pb.SessionConfig(image=picture(), width=64, height=64, pacing=pb.PACING_FASTEST)
        voice = RecordedVoice(pcm16(tone(1.0)), 16000)
        # A replica takes one session, so that both fit only where each has a pool to itself.
        one, two = (AvatarClient(running.address, token=key) for key in (gold, plain))
        async with one, two, one.stream(session) as held:
            await held.ready()
            denoisers = serve.get_deployment_handle("Denoiser-gold", "liveact")
            assert await denoisers.sessions.remote() == [held.session.name.partition("/")[2]]
            report = await speak(two, session, voice, pace="fastest")
            assert report.frames > 0

            listed = await drained("--all")
            assert sorted((row["deployment"], row["held"]) for row in listed["replicas"]) == [
                ("Denoiser", 0), ("Denoiser-gold", 1), ("VaeDecoder", 1),
            ]  # fmt: skip
            assert all(row["draining"] for row in listed["replicas"])
            with pytest.raises(ClientError, match="CAPACITY"):
                await speak(two, session, voice, pace="fastest")
            (plain_one,) = [row["replica"] for row in listed["replicas"] if row["deployment"] == "Denoiser"]
            listed = await drained("--all", "--undo")
            assert not any(row["draining"] for row in listed["replicas"])
            assert plain_one in {row["replica"] for row in listed["replicas"]}
            # Routers hear of it a little later.
            async with asyncio.timeout(60):
                while not await speaks(two, session, voice):
                    await asyncio.sleep(1)
            await held.close()
    finally:
        running.stop()
