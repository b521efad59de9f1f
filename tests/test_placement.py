"""The contract with Serve's alpha router API: where a session's calls go, and how soon they fail when they cannot go there."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from ray import serve
from ray.serve.config import RequestRouterConfig

from conftest import Service
from liveact_services.placement.pins import NoReplica, Pin, ReplicaGone
from liveact_services.placement.router import SessionRouter, VaultRouter


@pytest.mark.parametrize("key", ["s~1", "s@replica", "s~5.24!first", "s~0.125!first!second"])
def test_a_pin_reads_back_as_it_was_written(key: str) -> None:
    assert str(Pin.parse(key)) == key


def holder_class() -> type:
    """A deployment that says who it is. Made in a function, so that it travels whole: replicas cannot import this file."""

    class Holder:
        def __init__(self) -> None:
            self._started = time.time()

        def record_replica_metadata(self) -> dict[str, Any]:
            return {"started_at": self._started}

        async def who(self) -> str:
            return serve.get_replica_context().replica_id.unique_id

        async def die(self) -> None:
            os._exit(1)

        async def relay(self, given: str) -> str:
            return f"{given} through {await self.who()}"

    return Holder


@pytest.fixture(scope="module")
async def holder(service: Service) -> AsyncIterator[Any]:
    """Two replicas behind the strict router, beside the service in the same Ray."""
    deployment = serve.deployment(
        holder_class(), name="Holder", num_replicas=2, ray_actor_options={"num_cpus": 0.1}, graceful_shutdown_timeout_s=1,
        request_router_config=RequestRouterConfig(request_router_class=SessionRouter),
    )  # fmt: skip
    handle = await asyncio.to_thread(serve.run, deployment.bind(), name="contract", route_prefix=None)
    yield handle
    await asyncio.to_thread(serve.delete, "contract")


async def replicas(holder: Any) -> list[str]:
    """Both replicas, the one that is filled first in front."""
    first = await holder.options(session_id="a").who.remote()
    second = await holder.options(session_id=str(Pin("a", None, (first,)))).who.remote()
    return [first, second]


async def test_a_new_session_goes_to_the_oldest_replica_that_has_not_refused_it(holder: Any) -> None:
    first, second = await replicas(holder)
    assert first != second
    assert {await holder.options(session_id=f"s{n}").who.remote() for n in range(20)} == {first}
    with pytest.raises(NoReplica):
        await holder.options(session_id=str(Pin("a", None, (first, second)))).who.remote()


async def test_a_pinned_session_stays_where_it_is(holder: Any) -> None:
    for replica in await replicas(holder):
        pin = str(Pin("a", replica))
        assert {await holder.options(session_id=pin).who.remote() for _ in range(20)} == {replica}


async def test_a_response_is_passed_on_without_being_awaited(holder: Any) -> None:
    first, second = await replicas(holder)
    given = holder.options(session_id=str(Pin("a", first))).who.remote()
    assert await holder.options(session_id=str(Pin("a", second))).relay.remote(given) == f"{first} through {second}"


async def test_a_call_pinned_to_a_replica_that_is_not_there_fails_at_once(holder: Any) -> None:
    began = time.monotonic()
    with pytest.raises(ReplicaGone):
        await holder.options(session_id="a@nowhere").who.remote()
    assert time.monotonic() - began < 1


async def test_a_session_does_not_move_when_its_replica_dies(holder: Any) -> None:
    first, second = await replicas(holder)
    pinned = holder.options(session_id=str(Pin("a", second)))
    with pytest.raises(Exception, match=r"died|unavailable|gone|no longer"):
        await pinned.die.remote()
    deadline = time.monotonic() + 20
    while True:
        try:
            answer = await asyncio.wait_for(pinned.who.remote(), 10)
        except ReplicaGone:
            break
        except Exception:
            # Until the router has heard of the death, the call itself fails.
            assert time.monotonic() < deadline, "the death was never noticed"
            await asyncio.sleep(0.1)
        else:
            pytest.fail(f"a pinned call was answered by {answer}")
    assert await holder.options(session_id=str(Pin("b", first))).who.remote() == first


# ---- where exports go


async def test_all_calls_of_a_session_reach_one_vault_and_only_those_of_a_dead_one_move(service: Service) -> None:
    deployment = serve.deployment(
        holder_class(), name="Vaults", num_replicas=3, ray_actor_options={"num_cpus": 0.1}, graceful_shutdown_timeout_s=1,
        request_router_config=RequestRouterConfig(request_router_class=VaultRouter),
    )  # fmt: skip
    handle = await asyncio.to_thread(serve.run, deployment.bind(), name="vaults", route_prefix=None)
    try:
        sessions = [f"s{n}" for n in range(24)]

        async def places() -> dict[str, str]:
            asked = serve.get_app_handle("vaults")
            return {s: await asked.options(session_id=s).who.remote() for s in sessions}

        before = await places()
        assert await places() == before
        assert len(set(before.values())) == 3
        dead = before["s0"]
        with pytest.raises(Exception, match=r"died|unavailable"):
            await handle.options(session_id="s0").die.remote()
        after = await places()
        assert {s for s in sessions if after[s] != before[s]} == {s for s in sessions if before[s] == dead}
    finally:
        await asyncio.to_thread(serve.delete, "vaults")
