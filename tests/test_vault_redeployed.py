"""A session that rests has its Denoiser's part in the Vault and nowhere else, and goes on though that Vault is exchanged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from failover_fixtures import Watched, pids
from liveact.v1 import avatar_pb2 as pb
from liveact_services.client import AvatarClient
from liveact_services.placement.draining import running_replicas
from liveact_services.service import APPLICATION
from redeploy_fixtures import Deployed
from test_service import say, session, speech


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    service = Deployed(Path(tmp_path_factory.mktemp("redeploy")), sessions={"park_after_s": 2}, drain_timeout_s=30)
    try:
        service.deploy()
        service.wait(200)
        service.serving()
        yield service
    finally:
        service.stop()


async def held_by_denoisers() -> int:
    found = await asyncio.to_thread(running_replicas, APPLICATION)
    rows = await asyncio.gather(*(one.calls.drain_status() for one in found if one.deployment == "Denoiser"))
    return sum(int(row["held"]) for row in rows)


async def until_parked() -> None:
    async with asyncio.timeout(60):
        while await held_by_denoisers():
            await asyncio.sleep(0.3)


async def spoken_twice(client: AvatarClient, portrait: bytes, between: Callable[[], Awaitable[None]]) -> Watched:
    """One utterance, a rest in which the session is parked, and another."""
    heard = Watched()

    async def listen() -> None:
        async for message in stream:
            heard.take(message)

    async with client.stream(session(portrait, codec=pb.VIDEO_CODEC_JPEG)) as stream:
        await stream.ready()
        listening = asyncio.create_task(listen())
        await say(stream, speech(6.0, 1), "first")
        await until_parked()
        assert heard.frames
        await between()
        await say(stream, speech(4.0, 2), "second")
        await stream.close()
        await listening
    return heard


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_parked_session_outlives_the_vault_that_holds_it(deployed: Deployed, portrait: bytes) -> None:
    async def exchange() -> None:
        before, began = set(pids("Vault")), time.monotonic()
        await asyncio.to_thread(deployed.deploy, Vault={"ray_actor_options": {"num_cpus": 0.11}})
        await asyncio.to_thread(deployed.wait, 200)
        async with asyncio.timeout(60):
            while before & set(pids("Vault")):
                await asyncio.sleep(0.2)
        print(f"the Vault was exchanged in {time.monotonic() - began:.1f} s")
        assert await held_by_denoisers() == 0

    async def nothing() -> None:
        pass

    async with AvatarClient(deployed.address) as client:
        alone = await spoken_twice(client, portrait, nothing)
        heard = await spoken_twice(client, portrait, exchange)
    assert heard.indices == alone.indices == list(range(len(alone.frames)))
    assert heard.bytes == alone.bytes
