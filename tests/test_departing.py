"""What Serve tells of replicas that go, and what goes on working: the contract with its routers, and sessions that leave."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from ray import serve
from ray.serve.config import RequestRouterConfig

from conftest import Service
from liveact_services.placement.departing import BOARD, DepartureBoard, Listing
from liveact_services.placement.pins import NoReplica, Pin, ReplicaGone
from liveact_services.placement.router import SessionRouter

STAYS_S = 6.0
"""Graceful timeout of the replicas that are stopped here."""


def test_a_replica_leaves_when_it_drains_or_is_off_the_list() -> None:
    board = DepartureBoard()
    assert not board.leaving("a")
    board.tell("one", Listing(frozenset("ab"), draining=frozenset("b"), left=frozenset("c")))
    board.tell("two", Listing(frozenset("d")))
    assert [replica for replica in "abcd" if board.leaving(replica)] == ["b", "c"]
    board.tell("one", Listing(frozenset("ab")))
    assert not any(map(board.leaving, "abcd"))
    assert board.listing("two").serving == {"d"}
    assert board.listing("three") == Listing()


async def test_two_sessions_at_a_time_leave_a_replica() -> None:
    board = DepartureBoard()
    async with board.turn("a"), board.turn("a"):
        assert board.turn("a").locked()
        assert not board.turn("b").locked()
    assert not board.turn("a").locked()


def held_class() -> type:
    """A deployment that is held by calls. Made in a function, so that it travels whole: replicas cannot import this file."""

    class Held:
        def __init__(self) -> None:
            self._started, self._open = time.time(), 0

        def record_replica_metadata(self) -> dict[str, Any]:
            return {"started_at": self._started}

        async def who(self) -> str:
            return serve.get_replica_context().replica_id.unique_id

        async def hold(self) -> AsyncIterator[None]:
            self._open += 1
            try:
                while True:
                    yield None
                    await asyncio.sleep(0.2)
            finally:
                self._open -= 1

        async def held(self) -> int:
            return self._open

    return Held


def bound(replicas: int) -> Any:
    return serve.deployment(
        held_class(), name="Held", num_replicas=replicas, ray_actor_options={"num_cpus": 0.1},
        graceful_shutdown_timeout_s=STAYS_S, graceful_shutdown_wait_loop_s=0.2,
        request_router_config=RequestRouterConfig(request_router_class=SessionRouter, request_routing_stats_period_s=0.5),
    ).bind()  # fmt: skip


async def until(what: Callable[[], Awaitable[bool]], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not await what():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        await asyncio.sleep(0.1)


@pytest.mark.slow
async def test_a_replica_that_serve_stops_goes_on_with_those_that_hold_it_until_its_time_is_over(
    service: Service,
) -> None:
    async def run(replicas: int) -> Any:
        return await asyncio.to_thread(serve.run, bound(replicas), name="departing", route_prefix=None)

    handle = await run(2)
    try:
        first = await handle.options(session_id="a").who.remote()
        second = await handle.options(session_id=str(Pin("a", None, (first,)))).who.remote()
        beats = handle.options(session_id=str(Pin("a", second)), stream=True).hold.remote()
        await anext(beats)
        assert not BOARD.leaving(second)

        began = time.monotonic()
        shrinking = asyncio.create_task(run(1))

        async def leaves() -> bool:
            return BOARD.leaving(second)

        await until(leaves, 10)
        noticed = time.monotonic() - began
        pinned = handle.options(session_id=str(Pin("a", second)))
        assert await pinned.who.remote() == second, "those whose session is there reach it"
        with pytest.raises(NoReplica):
            await handle.options(session_id=str(Pin("b", None, (first,)))).who.remote()
        # A caller that holds it, until Serve ends it.
        with pytest.raises(Exception, match=r"died|unavailable|gone|killed"):
            async for _ in beats:
                pass
        assert time.monotonic() - began > STAYS_S - 1
        with pytest.raises((ReplicaGone, Exception), match=r"no longer serves|died"):
            await pinned.who.remote()

        async def forgotten() -> bool:
            return not BOARD.leaving(second)

        await until(forgotten, 15)
        await shrinking
        print(f"noticed after {noticed:.2f} s")
    finally:
        await asyncio.to_thread(serve.delete, "departing")


async def test_a_call_that_holds_a_replica_ends_when_its_caller_lets_it_go(service: Service) -> None:
    held = await asyncio.to_thread(serve.run, bound(1), name="callers", route_prefix=None)
    try:
        replica = await held.options(session_id="a").who.remote()
        pinned = held.options(session_id=str(Pin("a", replica)))
        beats = pinned.options(stream=True).hold.remote()
        await anext(beats)
        assert await pinned.held.remote() == 1
        beats.cancel()

        async def let_go() -> bool:
            return await pinned.held.remote() == 0

        await until(let_go, 15)
    finally:
        await asyncio.to_thread(serve.delete, "callers")
