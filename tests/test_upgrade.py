"""A cluster is exchanged for another under live sessions: no stream is cut for good and no byte is another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from failover_fixtures import Watched, watch
from liveact.v1 import avatar_pb2 as pb
from liveact_services.cli.bench.chaos.forwarder import Forwarder
from liveact_services.client import AvatarClient
from liveact_services.sessions import Database
from liveact_services.sessions.clusters import Clusters
from liveact_services.sessions.embedded import EmbeddedValkey
from test_redeploy import Live, one, voice
from test_service import RATE, session
from upgrade_fixtures import START_S, LocalCluster

SESSIONS = 4
SETTINGS = {
    "checkpoint": "untrained", "sessions.max_utilisation": 1000, "sessions.max_pending_voice_s": 1000,
}  # fmt: skip
"""Sessions are admitted however slow the machine, and all that is said is sent at once."""


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


async def serving(*clusters: LocalCluster) -> None:
    async with asyncio.timeout(START_S):
        while not all(cluster.address for cluster in clusters):
            assert not any(cluster.failed for cluster in clusters), [c.log.read_text()[-2000:] for c in clusters]
            await asyncio.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_sessions_go_from_one_cluster_to_another(redis: EmbeddedValkey, portrait: bytes, tmp_path: Path) -> None:
    blue = LocalCluster("blue", redis.url, tmp_path, **SETTINGS)
    green = LocalCluster("green", redis.url, tmp_path, **SETTINGS)
    clusters = Clusters(Database.connect(redis.url))
    try:
        await serving(blue, green)
        async with Forwarder(blue.address) as front, AvatarClient(front.address) as client:
            lives = [Live(number) for number in range(SESSIONS)]
            streams = [asyncio.create_task(one(client, portrait, live)) for live in lives]
            async with asyncio.timeout(90):
                while min(len(live.heard.frames) for live in lives) < 100:
                    await asyncio.sleep(0.2)
            front.lead(green.address)
            asked = time.perf_counter()
            await clusters.leave("blue")
            async with asyncio.timeout(60):
                while not all(live.heard.migrations() for live in lives):
                    await asyncio.sleep(0.1)
            print(f"all moved after {time.perf_counter() - asked:.1f} s")
            await asyncio.to_thread(blue.stop)
            already = [len(live.heard.frames) for live in lives]
            async with asyncio.timeout(60):
                while any(len(live.heard.frames) < n + 100 for live, n in zip(lives, already, strict=True)):
                    await asyncio.sleep(0.2)
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
            assert live.heard.indices == list(range(len(live.heard.frames)))
            assert live.heard.bytes == alone.bytes[: len(live.heard.frames)]
        moved = [e.migrated.stall.ToTimedelta().total_seconds() for live in lives for e in live.heard.migrations()]
        stalls = [length for live in lives for at, length in live.viewer.stalls if at > asked]
        print(f"moves {moved}; longest stall of a viewer {max(stalls, default=0.0):.2f} s")
    finally:
        blue.stop()
        green.stop()
