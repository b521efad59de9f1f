"""Every RPC of a Gateway whose store fails is answered within seconds, and none of its streams is held up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from liveact.v1 import avatar_pb2 as pb
from liveact_services.client import AvatarClient, AvatarStream
from liveact_services.errors import ClientError
from store_fixtures import Failing
from tenant_fixtures import Tenants, picture, serving, session

pytest_plugins = ["session_fixtures", "store_fixtures", "tenant_fixtures"]
pytestmark = pytest.mark.usefixtures("in_process")

WITHIN_S = 3.5
"""A call of the store takes two at most, and the first that is not answered is the last."""


async def opened(client: AvatarClient) -> None:
    async with client.stream(session()) as stream:
        await stream.ready()


async def resumed(client: AvatarClient, token: str) -> None:
    async with client.resume(token, 0) as stream:
        await stream.close()


async def refused(call: Awaitable[object]) -> tuple[str, float | None, float]:
    """With what a call failed, when to try again, and the seconds that took."""
    began = time.monotonic()
    try:
        await call
    except ClientError as error:
        return error.reason, error.retry_after_s, time.monotonic() - began
    return "", None, time.monotonic() - began


async def frames_of(stream: AvatarStream, indices: list[int]) -> None:
    async for message in stream:
        indices.extend(frame.index for frame in getattr(message, "frames", ()))


@pytest.mark.parametrize(
    "how", ["hung", "disk", *(pytest.param(how, marks=pytest.mark.slow) for how in ("stopped", "slow", "memory"))]
)
async def test_every_call_is_answered_within_seconds(failing: Failing, tenants: Tenants, how: str) -> None:
    # A quota on requests has every call ask the store first.
    key = tenants.add("acme", quotas={"sessions": 50, "streams": 50, "requests_per_second": 1000})
    async with serving(failing.url, tenants=str(tenants.write())) as at, at.client(key) as client:
        avatar = await client.create_avatar(picture(), "Eileen")
        indices: list[int] = []
        async with client.stream(session(pacing=pb.PACING_REALTIME)) as stream:
            await stream.ready()
            reading = asyncio.create_task(frames_of(stream, indices))
            name, token = stream.session.name, stream.session.resume_token
            calls: dict[str, Callable[[], Awaitable[object]]] = {
                "StreamAvatar": lambda: opened(client),
                "StreamAvatar, resumed": lambda: resumed(client, token),
                "CreateAvatar": lambda: client.create_avatar(picture()),
                "ListAvatars": client.list_avatars,
                "DeleteAvatar": lambda: client.delete_avatar(avatar.name),
                "GetSession": lambda: client.get_session(name),
                "ListSessions": client.list_sessions,
            }
            await failing.fail(how)
            if how == "disk":
                # Whatever is written first fills it; the store says so from the next second on.
                await asyncio.sleep(2.0)
            for _ in range(2):
                before = len(indices)
                answers = await asyncio.gather(*(refused(call()) for call in calls.values()))
                for call, (reason, retry_after_s, took) in zip(calls, answers, strict=True):
                    assert (reason, retry_after_s) == ("STORE_UNAVAILABLE", 1.0), call
                    assert took < WITHIN_S, call
                assert not reading.done()
                async with asyncio.timeout(3):
                    while len(indices) == before:
                        await asyncio.sleep(0.05)
            # What needs no store does not ask it.
            assert (await client.server_info()).preset == "tiny"
            await failing.recover(how)
            async with asyncio.timeout(10):
                while (await refused(client.list_sessions()))[0]:
                    await asyncio.sleep(0.1)
            assert (await client.get_session(name)).name == name
            closing = time.monotonic()
            await client.delete_session(name)
            assert time.monotonic() - closing < WITHIN_S
            await reading
        assert indices == list(range(len(indices)))
        assert (await client.get_session(name)).state == pb.SESSION_STATE_CLOSED


@pytest.mark.parametrize("how", ["stopped", "hung"])
async def test_a_session_deleted_while_the_store_is_away_has_ended_and_its_record_says_so_later(
    failing: Failing, how: str
) -> None:
    async with serving(failing.url) as at, at.client() as client, client.stream(session()) as stream:
        await stream.ready()
        name = stream.session.name
        await failing.fail(how)
        reason, _, took = await refused(client.delete_session(name))
        # Closed here, and the answer is that this could not be written yet.
        assert reason == "STORE_UNAVAILABLE"
        assert took < 2 * WITHIN_S
        assert not at.gateway._live
        await failing.recover(how)
        async with asyncio.timeout(10):
            while True:
                try:
                    if (await client.get_session(name)).state == pb.SESSION_STATE_CLOSED:
                        break
                except ClientError:
                    pass
                await asyncio.sleep(0.1)


@pytest.mark.slow
async def test_a_stream_lost_while_the_store_is_away_is_resumed_when_it_is_back(failing: Failing) -> None:
    async with serving(failing.url, sessions={"detached_timeout_s": 4}) as at, at.client() as client:
        async with client.stream(session(pacing=pb.PACING_REALTIME)) as stream:
            await stream.ready()
            token = stream.session.resume_token
            await failing.fail("hung")
            async for message in stream:
                if getattr(message, "frames", ()):
                    break
        # Longer than it would wait for a stream otherwise: a store that hangs is noticed within three seconds.
        for _ in range(6):
            assert (await refused(resumed(client, token)))[0] == "STORE_UNAVAILABLE"
            await asyncio.sleep(1.0)
        await failing.recover("hung")
        async with asyncio.timeout(10):
            while (last := await refused(resumed(client, token)))[0] == "STORE_UNAVAILABLE":
                await asyncio.sleep(0.1)
        assert last[0] == ""
