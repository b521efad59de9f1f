"""Replicas come and go under live sessions, as operators have them come and go: no stream is cut and no byte is another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from failover_fixtures import Watched, pids, watch
from liveact.v1 import avatar_pb2 as pb
from liveact_services.cli.bench.chaos.outcome import Viewer
from liveact_services.client import AvatarClient
from liveact_services.placement.draining import drain, running_replicas
from liveact_services.service import APPLICATION
from redeploy_fixtures import Deployed
from test_service import RATE, say, session, speech

SESSIONS, SEEDS = 6, 2
STAGES = ("Denoiser", "VaeDecoder")


def sized(replicas: int, cpus: float = 0.1) -> dict[str, Any]:
    """So many replicas; other `cpus` are another version."""
    return {"num_replicas": replicas, "ray_actor_options": {"num_cpus": cpus, "num_gpus": 0}}


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    service = Deployed(
        Path(tmp_path_factory.mktemp("redeploy")),
        sessions={"max_sessions": 8, "max_utilisation": 1000, "max_pending_voice_s": 1000},
        drain_timeout_s=30,
    )
    try:
        service.deploy(**dict.fromkeys(STAGES, sized(1)))
        service.wait(200)
        service.serving()
        yield service
    finally:
        service.stop()


@dataclass
class Live:
    """One client, what it got, and what its viewer saw."""

    seed: int
    heard: Watched = field(default_factory=Watched)
    viewer: Viewer = field(default_factory=lambda: Viewer(0))
    seen: int = 0
    delay: float = 0.0
    fps: float = 20.0

    def take(self, heard: Watched) -> None:
        self.heard = heard
        if len(heard.frames) > self.seen:
            new = [frame.index for frame in heard.frames[self.seen :]]
            self.seen = len(heard.frames)
            # A viewer of these settings buffers what the server says.
            self.viewer.video(new, time.perf_counter(), self.delay, self.fps)


def voice(seed: int, seconds: float = 300.0) -> np.ndarray:
    return speech(seconds, seed)


async def one(client: AvatarClient, portrait: bytes, live: Live) -> None:
    config = session(
        portrait, codec=pb.VIDEO_CODEC_JPEG, pacing=pb.PACING_REALTIME, idle_policy=pb.IDLE_POLICY_HOLD, seed=live.seed
    )
    async with client.stream(config) as stream:
        await stream.ready()
        live.delay, live.fps = stream.session.playout_delay.ToTimedelta().total_seconds(), stream.session.fps
        sending = asyncio.create_task(say(stream, voice(live.seed)))
        try:
            async for message in stream:
                live.heard.take(message)
                live.take(live.heard)
        finally:
            sending.cancel()


@pytest.mark.slow
async def test_a_gateway_that_serve_stops_tells_its_clients(deployed: Deployed, portrait: bytes) -> None:
    heard = Watched()

    async def listen(client: AvatarClient) -> float:
        async with client.stream(session(portrait)) as stream:
            await stream.ready()
            changing = asyncio.create_task(
                asyncio.to_thread(deployed.deploy, Gateway={"ray_actor_options": {"num_cpus": 0.11}})
            )
            began = time.monotonic()
            async for message in stream:
                heard.take(message)
                if any(event.type == pb.EVENT_TYPE_GOING_AWAY for event in heard.events):
                    told = time.monotonic() - began
                    await changing
                    # It serves until its time is over.
                    await stream.close()
                    async for message in stream:
                        heard.take(message)
                    return told
        raise AssertionError("the stream ended")

    async with AvatarClient(deployed.address) as client:
        async with asyncio.timeout(30):
            print(f"told {await listen(client):.1f} s after the change was asked for")
    await asyncio.to_thread(deployed.wait, 200)
    await asyncio.to_thread(deployed.serving)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_replicas_come_go_and_are_replaced_under_live_sessions(deployed: Deployed, portrait: bytes) -> None:
    lives = [Live(number % SEEDS) for number in range(SESSIONS)]
    marks: list[tuple[str, float]] = []

    async def phase(name: str, replicas: int, cpus: float = 0.1) -> None:
        marks.append((name, time.perf_counter()))
        await asyncio.to_thread(deployed.deploy, **dict.fromkeys(STAGES, sized(replicas, cpus)))
        took = await asyncio.to_thread(deployed.wait, 200)
        print(f"{name}: {took:.1f} s")

    async def held() -> dict[str, int]:
        found = await asyncio.to_thread(running_replicas, APPLICATION)
        rows = await asyncio.gather(*(replica.calls.drain_status() for replica in found))
        return {f"{replica.deployment} {replica.id}": row["held"] for replica, row in zip(found, rows, strict=True)}

    async with AvatarClient(deployed.address) as client:
        streams = [asyncio.create_task(one(client, portrait, live)) for live in lives]
        async with asyncio.timeout(60):
            while min(len(live.heard.frames) for live in lives) < 60:
                await asyncio.sleep(0.2)
        first = {stage: list(pids(stage)) for stage in STAGES}
        marks.append(("undisturbed", time.perf_counter()))
        await asyncio.sleep(8)
        await phase("1 to 3 replicas", 3)

        # All sessions are on the oldest, which Serve stops last: they go elsewhere first, so that it has something to stop.
        marks.append(("drained", time.perf_counter()))
        found = {r.id: r for r in await asyncio.to_thread(running_replicas, APPLICATION)}
        oldest = [found[replica] for stage in STAGES for replica in first[stage]]
        assert await drain(oldest, wait_s=40, poll_s=0.2) == {replica.id: [] for replica in oldest}
        await asyncio.gather(*(replica.calls.drain(False, False) for replica in oldest))
        print(await held())
        await asyncio.sleep(3)

        await phase("3 to 1 replicas", 1)
        assert {stage: list(pids(stage)) for stage in STAGES} == first
        await phase("1 to 2 replicas", 2)
        before = {stage: set(pids(stage)) for stage in STAGES}
        await phase("redeployed", 2, cpus=0.11)
        assert not any(before[stage] & set(pids(stage)) for stage in STAGES)
        print(await held())
        await asyncio.sleep(5)
        ended = time.perf_counter()
        for stream in streams:
            assert not stream.done(), stream
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)

        # One block, alone on this machine, and what a move took.
        took = time.perf_counter()
        alone = await watch(client, session(portrait, codec=pb.VIDEO_CODEC_JPEG), voice(9, 20.0))
        block_s = (time.perf_counter() - took) / (len(alone.frames) / 32)
        longest = max(len(live.heard.frames) for live in lives)
        needed = longest / lives[0].fps + 8
        alike = [session(portrait, codec=pb.VIDEO_CODEC_JPEG, seed=seed) for seed in range(SEEDS)]
        expected = await asyncio.gather(
            *(watch(client, config, voice(config.seed)[: int(needed * RATE)]) for config in alike)
        )

    for live in lives:
        assert not live.viewer.error
        assert live.heard.indices == list(range(len(live.heard.frames)))
        assert live.heard.bytes == expected[live.seed].bytes[: len(live.heard.frames)]
    for (name, since), until in zip(marks, [*(at for _, at in marks[1:]), ended], strict=True):
        stalls = [length for live in lives for at, length in live.viewer.stalls if since < at <= until]
        print(f"{name}: longest stall {max(stalls, default=0.0):.2f} s, {sum(stalls):.2f} s of {len(lives)} viewers")
    moved = [e.migrated.stall.ToTimedelta().total_seconds() for live in lives for e in live.heard.migrations()]
    print(f"{len(moved)} moves, the longest took {max(moved):.2f} s; a block alone takes {block_s:.2f} s")
    print(f"frames: {[len(live.heard.frames) for live in lives]}")
    assert len(moved) >= 3 * SESSIONS
