"""Parts of a real service stand still instead of dying: sessions go on elsewhere, and Serve puts others in their place."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import hanging_stages
from conftest import Service, serving
from failover_fixtures import Watched, configs, pids, reaches, record, undisturbed, until_replicas, watch
from liveact.v1 import avatar_pb2 as pb
from liveact_models.timeline import block_frames
from liveact_services import graph
from liveact_services.client import AvatarClient
from liveact_services.config import load_config
from test_service import perform, session, speech

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

FAR = block_frames(5).start
"""Frames of both sessions that are there when something stops: past the first export."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One that loses its patience sooner than by default, and whose decoders can be made to hang."""
    config = load_config(
        port=0, http_port=0, data_dir=tmp_path_factory.mktemp("hung"), checkpoint="untrained",
        denoiser={"replicas": 2}, vae_decoder={"replicas": 2}, hang_timeout_s=6,
        health_check_period_s=1, health_check_timeout_s=2,
        sessions={"max_sessions": 4, "max_utilisation": 1000, "stage_timeout_s": 4},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "VaeDecoder", hanging_stages.VaeDecoder)
        with serving(config) as service:
            yield service


@pytest.fixture(scope="module")
def voices() -> tuple[np.ndarray, np.ndarray]:
    return speech(30.0, 1), speech(16.0, 2)


@pytest.fixture(scope="module")
async def expected(
    client: AvatarClient, portrait: bytes, voices: tuple[np.ndarray, np.ndarray]
) -> tuple[Watched, Watched]:
    return await undisturbed(client, portrait, voices)


class Pair:
    """A session at each pacing, both far enough for something to happen to them."""

    def __init__(self, client: AvatarClient, portrait: bytes, voices: tuple[np.ndarray, np.ndarray]) -> None:
        self._client, self._configs, self._voices = client, configs(portrait), voices
        self.heard: dict[str, Watched] = {}
        self.tasks: list[asyncio.Task[Watched]] = []

    async def start(self) -> None:
        fastest, realtime = self._configs
        # The faster one second: both are then under way.
        for pacing, config, voice in (("realtime", realtime, self._voices[1]), ("fastest", fastest, self._voices[0])):
            far = asyncio.Event()
            task = asyncio.create_task(watch(self._client, config, voice, partial(self._seen, pacing, far)))
            await reaches(far, task)
            self.tasks.append(task)
        assert not any(task.done() for task in self.tasks)

    def _seen(self, pacing: str, far: asyncio.Event, heard: Watched) -> None:
        self.heard[pacing] = heard
        if len(heard.frames) >= FAR:
            far.set()

    async def moved(self) -> None:
        async with asyncio.timeout(120):
            while not all(heard.migrations() for heard in self.heard.values()):
                await asyncio.sleep(0.1)
                assert not any(task.done() and not task.cancelled() and task.exception() for task in self.tasks)

    async def end_as(self, expected: tuple[Watched, Watched]) -> None:
        await asyncio.gather(*self.tasks)
        for got, wanted in zip((self.heard["fastest"], self.heard["realtime"]), expected, strict=True):
            assert got.indices == list(range(len(wanted.frames)))
            assert got.bytes == wanted.bytes
            np.testing.assert_array_equal(got.sound(), wanted.sound())


@contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """The process is stopped, and goes on after that if it is still there."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGCONT)


async def until_gone(pid: int, within_s: float) -> float:
    """Seconds until the process was there no more."""
    began = time.monotonic()
    async with asyncio.timeout(within_s):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.2)
    return time.monotonic() - began


@pytest.mark.parametrize("wakes", [True, False], ids=["and wakes", "for good"])
@pytest.mark.parametrize("deployment", ["Denoiser", "VaeDecoder"])
async def test_sessions_of_a_replica_that_stands_still_go_on_elsewhere_with_equal_bytes(
    service: Service,
    client: AvatarClient,
    portrait: bytes,
    voices: tuple[np.ndarray, np.ndarray],
    expected: tuple[Watched, Watched],
    deployment: str,
    wakes: bool,
) -> None:
    """One that wakes finds that its sessions are elsewhere; one that does not is ended by Serve."""
    pair = Pair(client, portrait, voices)
    await pair.start()
    records = [await record(service, heard.name) for heard in pair.heard.values()]
    (stopped,) = {r.denoiser if deployment == "Denoiser" else r.decoder for r in records}
    pid = pids(deployment)[stopped]
    with standing_still(pid):
        await pair.moved()
        if wakes:
            os.kill(pid, signal.SIGCONT)
        await pair.end_as(expected)
        if not wakes:
            took = await until_gone(pid, 90)
            print(f"{deployment} stopped: gone {took:.1f} s after the sessions had ended")
    for heard in pair.heard.values():
        (moved,) = heard.migrations()
        now = await record(service, heard.name)
        assert stopped not in (now.denoiser, now.decoder)
        print(f"{deployment} stopped: {moved.message}")
    await until_replicas(deployment, 2, service)


async def test_an_audio_encoder_that_stands_still_is_replaced_while_its_sessions_wait(
    service: Service,
    client: AvatarClient,
    portrait: bytes,
    voices: tuple[np.ndarray, np.ndarray],
    expected: tuple[Watched, Watched],
) -> None:
    """The only one there is: until Serve has noticed and started another, no block can be made."""
    pair = Pair(client, portrait, voices)
    await pair.start()
    ((stopped, pid),) = pids("AudioEncoder").items()
    began = time.monotonic()
    with standing_still(pid):
        await pair.end_as(expected)
        print(f"AudioEncoder stopped: the streams ended {time.monotonic() - began:.1f} s later")
        await until_replicas("AudioEncoder", 1, service)
        assert stopped not in pids("AudioEncoder")
        await until_gone(pid, 60)


async def test_a_replica_whose_computing_never_returns_is_replaced_and_its_sessions_go_on(
    service: Service,
    client: AvatarClient,
    portrait: bytes,
    voices: tuple[np.ndarray, np.ndarray],
    expected: tuple[Watched, Watched],
) -> None:
    pair = Pair(client, portrait, voices)
    await pair.start()
    before = pids("VaeDecoder")
    hanging_stages.trap(service.config).touch()
    await pair.end_as(expected)
    assert not hanging_stages.trap(service.config).exists()
    async with asyncio.timeout(90):
        while len(gone := before.keys() - pids("VaeDecoder").keys()) < 1:
            await asyncio.sleep(0.2)
    (hung,) = gone
    await until_gone(before[hung], 60)
    for heard in pair.heard.values():
        assert (await record(service, heard.name)).decoder != hung
    await until_replicas("VaeDecoder", 2, service)


async def test_streams_and_replicas_outlive_serves_controller(
    service: Service, client: AvatarClient, portrait: bytes
) -> None:
    stages = ("Gateway", "Denoiser", "VaeDecoder", "AudioEncoder", "Conditioner", "VaeEncoder", "Vault")
    before = {stage: pids(stage) for stage in stages}
    (controller,) = [
        process
        for process in psutil.Process().children(recursive=True)
        if "".join(process.cmdline()[:1]).startswith("ray::ServeController")
    ]
    killed_at = 0.0

    def seen(heard: Watched) -> None:
        nonlocal killed_at
        if len(heard.frames) >= 21 and not killed_at:
            controller.kill()
            killed_at = time.monotonic()

    heard = await watch(client, session(portrait, pacing=pb.PACING_REALTIME), speech(10.0), seen)
    assert heard.indices == list(range(len(heard.frames)))
    assert len(heard.frames) >= 10 * 20
    assert not heard.migrations()
    gaps = np.diff([at for at in heard.came if at > killed_at])
    print(f"controller killed: the longest gap between two parts was {gaps.max():.2f} s")
    async with asyncio.timeout(60):
        while True:
            try:
                after = {stage: pids(stage) for stage in stages}
                if set(service.running.status().values()) == {"HEALTHY"} and all(after.values()):
                    break
            except Exception as error:
                print(f"not yet: {type(error).__name__}")
            await asyncio.sleep(0.5)
    assert after == before
    async with grpc.aio.insecure_channel(service.address) as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
    assert len((await perform(client, session(portrait), speech(2.0))).frames) >= 40
