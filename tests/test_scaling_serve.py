"""Draining and autoscaling by sessions, on Serve itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from ray import serve
from ray.serve.config import RequestRouterConfig

from conftest import Service
from liveact_services.conductor.parts import NoPlace, Part
from liveact_services.gateway.serve_stages import _place
from liveact_services.placement.autoscaling import ScalingRules
from liveact_services.placement.draining import drain, running_replicas
from liveact_services.placement.pins import Pin
from liveact_services.placement.router import SessionRouter
from liveact_services.placement.serve_policy import Role, autoscaling_config
from stage_fixtures import session_spec

CAPACITY = 2


def holder_class() -> type:
    """A deployment that holds names. Made in a function, so that it travels whole: replicas cannot import this file."""
    from liveact_services.replica import replica_id
    from liveact_services.stateful import Stateful

    class Holder(Stateful):
        def __init__(self) -> None:
            super().__init__(CAPACITY)
            self.here: list[str] = []

        def record_replica_metadata(self) -> dict[str, Any]:
            return {"started_at": self.started_at}

        def held(self) -> int:
            return len(self.here)

        async def open(self, session: str) -> str:
            self.require_room(session)
            self.here.append(session)
            return replica_id()

        async def close(self, session: str) -> None:
            self.here.remove(session)

        async def sessions(self) -> list[str]:
            return self.here

    return Holder


class Fleet:
    """The replicas of one application, and sessions placed on them as the Gateway places its own."""

    def __init__(self, application: str, handle: Any) -> None:
        self.application, self.handle = application, handle

    async def open(self, session: str) -> str:
        return await _place(
            Part.DECODER,
            session_spec(session=session),
            "",
            lambda key: self.handle.options(session_id=key).open.remote(session),
        )

    async def open_at(self, session: str, replica: str) -> str:
        return await self.handle.options(session_id=str(Pin(session, replica))).open.remote(session)

    async def close(self, session: str, replica: str) -> None:
        await self.handle.options(session_id=str(Pin(session, replica))).close.remote(session)

    async def ids(self) -> list[str]:
        return [replica.id for replica in await asyncio.to_thread(running_replicas, self.application)]


@asynccontextmanager
async def fleet(application: str, **options: Any) -> AsyncIterator[Fleet]:
    router: Any = SessionRouter
    # The name by which the drain command knows the replicas that hold sessions.
    deployment: Any = serve.deployment(
        holder_class(), name="Denoiser", ray_actor_options={"num_cpus": 0.1}, graceful_shutdown_timeout_s=1,
        health_check_period_s=1, **options,
        request_router_config=RequestRouterConfig(request_router_class=router, request_routing_stats_period_s=0.5),
    )  # fmt: skip
    handle = await asyncio.to_thread(serve.run, deployment.bind(), name=application, route_prefix=None)
    try:
        yield Fleet(application, handle)
    finally:
        await asyncio.to_thread(serve.delete, application)


async def until(what: Callable[[], Awaitable[bool]], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not await what():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        await asyncio.sleep(0.5)


@pytest.mark.slow
async def test_a_drained_replica_gets_no_new_session_and_goes_when_it_is_empty(service: Service) -> None:
    async with fleet("drained", num_replicas=2) as at:
        first, second = await at.ids()
        for session, replica in (("a", first), ("b", first), ("c", second)):
            assert await at.open_at(session, replica) == replica
        replicas = {r.id: r for r in await asyncio.to_thread(running_replicas, "drained")}

        assert await drain([replicas[first]]) == {first: ["a", "b"]}
        await at.close("b", first)
        assert await at.open("d") == second, "there is room on the first, which drains"
        with pytest.raises(NoPlace):
            await at.open("e")
        await replicas[first].calls.drain(False, False)
        await until(lambda: _opens(at, "e"), 60)
        await at.close("e", first)

        assert await drain([replicas[first]], let_go=True) == {first: ["a"]}
        assert (await replicas[first].calls.drain_status())["let_go"]
        assert first in await at.ids(), "it goes on while it has a session"
        await at.close("a", first)

        async def replaced() -> bool:
            ids = await at.ids()
            return first not in ids and len(ids) == 2

        await until(replaced, 120)
        assert second in await at.ids()


async def _opens(at: Fleet, session: str) -> bool:
    """Whether it finds a place by now."""
    try:
        await at.open(session)
    except NoPlace:
        return False
    return True


@pytest.mark.slow
async def test_serve_follows_the_sessions_up_and_takes_only_empty_replicas_away(service: Service) -> None:
    rules = ScalingRules(max_replicas=3, head_room=0, down_after_s=5, start_s=0)
    # These hold names, which cannot go elsewhere.
    scaling = autoscaling_config(rules, CAPACITY, Role.FRONTS, 1)
    async with fleet("scaled", autoscaling_config=scaling) as at:
        first = await at.open("a")
        await at.open("b")
        assert await at.ids() == [first]

        # Turned away, and asking again: that is what brings the second replica.
        await until(lambda: _opens(at, "c"), 200)
        ids = await at.ids()
        assert len(ids) == 2
        second = next(replica for replica in ids if replica != first)

        # One session on each is work for one replica; but the newest holds one.
        await at.close("a", first)
        await asyncio.sleep(40)
        assert set(await at.ids()) == {first, second}
        await at.close("c", second)

        async def shrunk() -> bool:
            return await at.ids() == [first]

        await until(shrunk, 120)
        await at.close("b", first)
