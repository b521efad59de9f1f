"""A worker's preStop on a real service: nothing new comes, and it waits for what is there."""

from __future__ import annotations

import asyncio

import pytest
import ray

from conftest import Service
from liveact.v1 import avatar_pb2 as pb
from liveact_services.client import AvatarClient
from liveact_services.cluster.leave import leave, on_node
from liveact_services.errors import ClientError
from liveact_services.placement.draining import running_replicas
from liveact_services.service import APPLICATION


async def test_a_node_is_left_once_its_streams_have_ended_and_takes_no_new_ones_meanwhile(
    service: Service, portrait: bytes
) -> None:
    node = ray.get_runtime_context().get_node_id()
    here = on_node(node)
    assert len(here.gateways) == 1
    assert {replica.id for replica in running_replicas(APPLICATION)} <= here.replicas
    config = pb.SessionConfig(image=portrait, width=32, height=32)
    told: list[str] = []
    try:
        async with AvatarClient(service.address) as client:
            async with client.stream(config) as stream:
                await stream.ready()
                left = await leave(node, 0.5, told.append)
                assert left[here.gateways[0]] >= 1
                assert sum(left.values()) >= 3, "its stream, its Denoiser's part and its VaeDecoder's"
                with pytest.raises(ClientError) as refused:
                    async with client.stream(config) as another:
                        await another.ready()
                assert refused.value.reason == "CAPACITY"
                leaving = asyncio.create_task(leave(node, 30, told.append))
                await asyncio.sleep(0.3)
                assert not leaving.done()
                await client.delete_session(stream.session.name)
            assert await leaving == {}
        assert any("serves 1 calls" in line for line in told)
    finally:
        await asyncio.gather(*(replica.calls.drain(False, False) for replica in running_replicas(APPLICATION)))
        await until_taken(service, config)


async def until_taken(service: Service, config: pb.SessionConfig) -> None:
    """Routers hear of it within seconds, and other tests share the service."""
    async with asyncio.timeout(20), AvatarClient(service.address) as client:
        while True:
            try:
                async with client.stream(config) as stream:
                    await stream.ready()
                    return await client.delete_session(stream.session.name)
            except ClientError as refused:
                if refused.reason != "CAPACITY":
                    raise
                await asyncio.sleep(0.2)


async def test_a_node_without_replicas_is_left_at_once(service: Service) -> None:
    told: list[str] = []
    assert await leave("0" * 56, 30, told.append) == {}
    assert told == ["no replica runs on this node"]
