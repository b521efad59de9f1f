"""Processes die: who is told what, and that everybody else goes on."""

from __future__ import annotations

import asyncio

import psutil
import pytest

from conftest import Service
from liveact.v1 import avatar_pb2 as pb
from liveact_services.client import AvatarClient
from liveact_services.errors import ClientError
from test_service import perform, session, speech


def replicas(deployment: str) -> list[psutil.Process]:
    """The processes of a deployment, the oldest first."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith(f"ray::ServeReplica:liveact:{deployment}"):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return sorted(found, key=lambda process: process.create_time())


async def until_replicas(deployment: str, count: int, service: Service) -> None:
    """Wait for Serve to have replaced what was killed."""
    async with asyncio.timeout(120):
        while len(replicas(deployment)) < count or service.running.status()[deployment] != "HEALTHY":
            await asyncio.sleep(0.5)


async def watch(client: AvatarClient, config: pb.SessionConfig, deployment: str) -> None:
    """Take in a stream's frames, and after the first block kill every replica of the deployment."""
    async with asyncio.timeout(60), client.stream(config) as stream:
        await stream.ready()
        frames, victims = 0, replicas(deployment)
        async for message in stream:
            frames += len(message.frames) if isinstance(message, pb.VideoChunk) else 0
            while frames >= 21 and victims:
                victims.pop().kill()


@pytest.mark.parametrize("deployment", ["Denoiser", "VaeDecoder"])
async def test_a_session_whose_replica_is_killed_is_told_so_and_the_service_comes_back(
    service: Service, portrait: bytes, deployment: str
) -> None:
    async with AvatarClient(service.address) as client:
        with pytest.raises(ClientError) as raised:
            await watch(client, session(portrait, pacing=pb.PACING_REALTIME), deployment)
        assert raised.value.reason == "SESSION_LOST"
        assert raised.value.resumable
        assert raised.value.retry_after_s is not None
        await until_replicas(deployment, 2, service)
        assert len((await perform(client, session(portrait), speech(1.0))).frames) >= 20


async def test_a_session_whose_valkey_is_killed_goes_on_and_its_record_is_right_afterwards(
    service: Service, portrait: bytes
) -> None:
    """The embedded server's guard starts it again; the stream notices nothing."""
    servers = [p for p in psutil.Process().children(recursive=True) if "valkey-server" in " ".join(p.cmdline()[:1])]
    async with (
        AvatarClient(service.address) as client,
        client.stream(session(portrait, pacing=pb.PACING_REALTIME)) as stream,
    ):
        await stream.ready()
        indices: list[int] = []
        async for message in stream:
            indices.extend(f.index for f in getattr(message, "frames", ()))
            if len(indices) >= 21 and servers:
                servers.pop().kill()
            if len(indices) >= 21 + 3 * 32:
                break
        assert indices == list(range(len(indices)))
        await asyncio.sleep(2)
        record = await client.get_session(stream.session.name)
        assert record.state == pb.SESSION_STATE_STREAMING
        assert record.frames >= 21 + 32
        await client.delete_session(stream.session.name)
    assert not servers
