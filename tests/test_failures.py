"""Processes die: who is told what, and that everybody else goes on."""

from __future__ import annotations

import asyncio

import psutil
import pytest

from conftest import Service
from failover_fixtures import Watched, kill, until_replicas, watch
from liveact.v1 import avatar_pb2 as pb
from liveact_services.client import AvatarClient
from test_service import session, speech


@pytest.mark.slow
@pytest.mark.parametrize("deployment", ["Denoiser", pytest.param("VaeDecoder", marks=pytest.mark.slow)])
async def test_a_session_whose_stage_has_lost_every_replica_goes_on_when_serve_has_brought_one_back(
    service: Service, portrait: bytes, deployment: str
) -> None:
    killed: list[str] = []

    def seen(heard: Watched) -> None:
        if len(heard.frames) >= 21 and not killed:
            killed.extend(kill(deployment))

    async with AvatarClient(service.address) as client, asyncio.timeout(250):
        heard = await watch(client, session(portrait, pacing=pb.PACING_REALTIME), speech(8.0), seen)
        assert len(killed) == 2
        assert heard.indices == list(range(len(heard.frames)))
        assert len(heard.frames) >= 8 * 20
        (moved,) = heard.migrations()
        assert deployment.removeprefix("Vae").lower() in moved.message
        await until_replicas(deployment, 2, service)


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
