"""Quotas, reloading and revoking over real gRPC, on the Gateway's own RPCs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from liveact.v1 import avatar_pb2 as pb
from liveact_models.config import ConfigError
from liveact_services.client import AvatarClient, AvatarStream
from liveact_services.errors import ClientError
from liveact_services.gateway.live_session import LiveSession
from liveact_services.sessions import SessionState
from tenant_fixtures import Serving, Tenants, picture, serving, session

pytest_plugins = ["session_fixtures", "tenant_fixtures"]
pytestmark = pytest.mark.usefixtures("in_process")

PATIENCE_S = 60


def live(at: Serving, stream: AvatarStream) -> LiveSession:
    return at.gateway._live[stream.session.name.partition("/")[2]]


async def refused(client: AvatarClient, config: pb.SessionConfig) -> ClientError:
    with pytest.raises(ClientError) as caught:
        async with client.stream(config):
            pass
    return caught.value


async def fails(stream: AvatarStream) -> ClientError:
    """How the stream ends."""

    async def read() -> None:
        async for _ in stream:
            pass

    with pytest.raises(ClientError) as caught:
        await asyncio.wait_for(read(), PATIENCE_S)
    return caught.value


async def lost(stack: AsyncExitStack, at: Serving, stream: AvatarStream) -> LiveSession:
    """The client hangs up: the session, once it is detached and Redis knows."""
    held = live(at, stream)
    await stack.aclose()
    async with asyncio.timeout(PATIENCE_S):
        while held.ledger.record.state is not SessionState.DETACHED or held.ledger._moves:
            await asyncio.sleep(0.02)
    return held


async def started(stack: AsyncExitStack, client: AvatarClient, **fields: Any) -> AvatarStream:
    stream = await stack.enter_async_context(client.stream(session(**fields)))
    await stream.ready()
    return stream


# ---- quotas


async def test_sessions_and_streams_are_counted_apart(redis_url: str, tenants: Tenants) -> None:
    key = tenants.add("acme", quotas={"sessions": 3, "streams": 2})
    other = tenants.add("globex")
    async with serving(redis_url, tenants=str(tenants.write())) as at, at.client(key) as client:
        first, rest = AsyncExitStack(), AsyncExitStack()
        async with rest:
            stream = await started(first, client)
            await started(rest, client)
            error = await refused(client, session())
            assert (error.reason, error.quota_subject, error.code.name) == (
                "QUOTA_STREAMS", "tenant:acme", "RESOURCE_EXHAUSTED",
            )  # fmt: skip
            token = stream.session.resume_token
            await lost(first, at, stream)
            await started(rest, client)
            # Detached, it is a session still.
            assert (await refused(client, session())).reason == "QUOTA_SESSIONS"
            with pytest.raises(ClientError, match="QUOTA_STREAMS"):
                async with client.resume(token, 0):
                    pass
            async with at.client(other) as another, another.stream(session()) as free:
                await free.ready()
            for name in [record.name for record in await client.list_sessions()][:1]:
                await client.delete_session(name)
            async with client.resume(token, 0) as again:
                assert again.session.name == stream.session.name


async def test_a_stream_that_takes_over_needs_no_second_place(redis_url: str, tenants: Tenants) -> None:
    key = tenants.add("acme", quotas={"sessions": 1, "streams": 1})
    async with (
        serving(redis_url, tenants=str(tenants.write())) as at,
        at.client(key) as client,
        AsyncExitStack() as stack,
    ):
        stream = await started(stack, client)
        for _ in range(3):
            async with client.resume(stream.session.resume_token, 0) as again:
                await again.ready()
        assert (await fails(stream)).reason == "SESSION_TAKEN_OVER"


async def test_a_picture_beyond_the_quota_is_refused_naming_the_field(redis_url: str, tenants: Tenants) -> None:
    key = tenants.add("acme", quotas={"width": 48, "height": 64})
    async with serving(redis_url, tenants=str(tenants.write())) as at, at.client(key) as client:
        for size, field in (((64, 64), "config.width"), ((48, 80), "config.height"), ((0, 0), "config.width")):
            error = await refused(client, session(width=size[0], height=size[1]))
            assert (error.reason, error.field, error.quota_subject) == ("QUOTA_FRAME_SIZE", field, "tenant:acme")
        async with client.stream(session(width=48, height=64)) as stream:
            await stream.ready()
        assert len(await client.list_sessions()) == 1


async def test_requests_beyond_the_rate_are_refused_with_a_time(redis_url: str, tenants: Tenants) -> None:
    key = tenants.add("acme", quotas={"requests_per_second": 0.01, "burst": 2})
    other = tenants.add("globex")
    async with serving(redis_url, tenants=str(tenants.write())) as at, at.client(key) as client:
        await client.list_avatars()
        await client.list_sessions()
        for call in (client.list_avatars, client.list_sessions):
            with pytest.raises(ClientError) as caught:
                await call()
            assert caught.value.reason == "QUOTA_REQUESTS"
            assert 60 < (caught.value.retry_after_s or 0) <= 100
        assert (await refused(client, session())).reason == "QUOTA_REQUESTS"
        await client.server_info()
        async with at.client(other) as another:
            await another.list_avatars()


async def test_a_session_over_its_minutes_ends_with_the_reason(redis_url: str, tenants: Tenants) -> None:
    key = tenants.add("acme", quotas={"minutes_per_day": 0.05})
    async with (
        serving(redis_url, tenants=str(tenants.write())) as at,
        at.client(key) as client,
        AsyncExitStack() as stack,
    ):
        stream = await started(stack, client)
        # Five seconds of voice, where three seconds of video may be made.
        await stream.send_audio(b"\x01\x10" * 80000, "u")
        error = await fails(stream)
        assert (error.reason, error.quota_subject) == ("QUOTA_MINUTES", "tenant:acme")
        assert error.retry_after_s is not None
        assert 0 < error.retry_after_s <= 86400
        error = await refused(client, session())
        assert (error.reason, error.quota_subject) == ("QUOTA_MINUTES", "tenant:acme")
        async with asyncio.timeout(PATIENCE_S):
            while (await client.get_session(stream.session.name)).state != pb.SESSION_STATE_FAILED:
                await asyncio.sleep(0.05)


async def test_weight_and_pool_go_with_the_session(redis_url: str, tenants: Tenants) -> None:
    key = tenants.add("acme", weight=2.5, pool="gold")
    fields = {"tenants": str(tenants.write()), "pools": {"gold": {"replicas": 2}}}
    async with serving(redis_url, **fields) as at, at.client(key) as client, AsyncExitStack() as stack:
        stream = await started(stack, client)
        held = live(at, stream)
        assert (held.spec.tenant, held.spec.weight, held.spec.pool) == ("acme", 2.5, "gold")
        record = await at.gateway._store.get(held.spec.session, "acme")
        assert (record.tenant, record.weight, record.pool) == ("acme", 2.5, "gold")


# ---- reloading and revoking


async def answer(client: AvatarClient) -> str:
    """The reason of the caller's refusal, or OK."""
    try:
        await client.list_avatars()
    except ClientError as error:
        return error.reason
    return "OK"


async def turns(client: AvatarClient, before: str, after: str) -> None:
    """Until the service has taken over the new directory."""
    async with asyncio.timeout(PATIENCE_S):
        while (reason := await answer(client)) == before:
            await asyncio.sleep(0.05)
    assert reason == after


async def test_a_revoked_key_ends_its_stream_and_another_key_goes_on(redis_url: str, tenants: Tenants) -> None:
    old = tenants.add("acme")
    new, spared = tenants.add_key("acme"), tenants.add("globex")
    async with serving(redis_url, tenants=str(tenants.write())) as at, AsyncExitStack() as stack:
        first, second, other = [await stack.enter_async_context(at.client(key)) for key in (old, new, spared)]
        stream, bystander = await started(stack, first), await started(stack, other)
        held = live(at, stream)
        tenants.entries["acme"]["keys"][0]["revoked"] = True
        tenants.write()
        assert (await fails(stream)).reason == "CREDENTIALS_REVOKED"
        await turns(first, "OK", "CREDENTIALS_REVOKED")
        async with asyncio.timeout(PATIENCE_S):
            while held.ledger.record.state is not SessionState.DETACHED:
                await asyncio.sleep(0.02)
        with pytest.raises(ClientError, match="CREDENTIALS_REVOKED"):
            async with first.resume(stream.session.resume_token, 0):
                pass
        async with second.resume(stream.session.resume_token, 0) as again:
            await again.send_audio(b"\x01\x10" * 8000, "u")
            await again.close()
            messages = [message async for message in again]
        assert messages[-1].type == pb.EVENT_TYPE_CLOSED
        assert [f.index for m in messages if isinstance(m, pb.VideoChunk) for f in m.frames][:3] == [0, 1, 2]
        assert not live(at, bystander).over


async def test_a_disabled_tenants_sessions_end(redis_url: str, tenants: Tenants) -> None:
    key = tenants.add("acme")
    tenants.add("globex")
    async with serving(redis_url, tenants=str(tenants.write())) as at, at.client(key) as client:
        streaming, left = AsyncExitStack(), AsyncExitStack()
        async with streaming:
            stream = await started(streaming, client)
            detached = await lost(left, at, await started(left, client))
            tenants.change("acme", disabled=True)
            tenants.write()
            error = await fails(stream)
            assert (error.reason, error.code.name) == ("TENANT_DISABLED", "PERMISSION_DENIED")
            await turns(client, "OK", "TENANT_DISABLED")
            async with asyncio.timeout(PATIENCE_S):
                while at.gateway._live:
                    await asyncio.sleep(0.05)
        assert detached.ledger.record.state is SessionState.FAILED
        tenants.change("acme", disabled=False)
        tenants.write()
        await turns(client, "TENANT_DISABLED", "OK")
        states = {record.state for record in await client.list_sessions()}
        assert states == {pb.SESSION_STATE_FAILED}


async def test_quotas_that_change_hold_for_sessions_that_run(redis_url: str, tenants: Tenants) -> None:
    key = tenants.add("acme")
    async with (
        serving(redis_url, tenants=str(tenants.write())) as at,
        at.client(key) as client,
        AsyncExitStack() as stack,
    ):
        stream = await started(stack, client)
        tenants.change("acme", quotas={"minutes_per_day": 0, "sessions": 0})
        tenants.write()
        assert (await fails(stream)).reason == "QUOTA_MINUTES"


async def test_a_new_tenant_calls_without_a_restart_and_a_wrong_file_changes_nothing(
    redis_url: str, tenants: Tenants, caplog: pytest.LogCaptureFixture
) -> None:
    key = tenants.add("acme")
    async with serving(redis_url, tenants=str(tenants.write())) as at, at.client(key) as client:
        tenants.path.write_text("tenants: [{id: NO}]")
        async with asyncio.timeout(PATIENCE_S):
            while "stays in force" not in caplog.text:
                await asyncio.sleep(0.05)
        await client.create_avatar(picture(), "still here")
        newcomer = tenants.add("globex")
        tenants.write()
        async with at.client(newcomer) as other:
            await turns(other, "CREDENTIALS_INVALID", "OK")
            assert await other.list_avatars() == []


async def test_a_session_closed_through_another_gateway_ends_where_it_runs(redis_url: str, tenants: Tenants) -> None:
    """Or it would go on outside of its tenant's quotas."""
    key = tenants.add("acme")
    place = str(tenants.write())
    async with (
        serving(redis_url, tenants=place) as here, serving(redis_url, tenants=place) as there,
        here.client(key) as mine, there.client(key) as elsewhere, AsyncExitStack() as stack,
    ):  # fmt: skip
        stream = await started(stack, mine, pacing=pb.PACING_REALTIME)
        await elsewhere.delete_session(stream.session.name)
        assert (await fails(stream)).reason in {"SESSION_ENDED", "SESSION_TAKEN_OVER"}
        assert (await mine.get_session(stream.session.name)).state == pb.SESSION_STATE_CLOSED


async def test_a_gateway_does_not_start_with_a_wrong_directory(redis_url: str, tenants: Tenants) -> None:
    tenants.path.write_text("tenants: []")
    with pytest.raises(ConfigError, match="at least one is needed"):
        async with serving(redis_url, tenants=str(tenants.path)):
            pass


async def test_two_gateways_share_a_tenants_quotas(redis_url: str, tenants: Tenants) -> None:
    key = tenants.add("acme", quotas={"sessions": 4})
    place = str(tenants.write())

    async def attempt(client: AvatarClient, stack: AsyncExitStack) -> str:
        try:
            await started(stack, client)
        except ClientError as error:
            return error.reason
        return "admitted"

    async def clients() -> AsyncIterator[AvatarClient]:
        for at in (here, there):
            yield await stack.enter_async_context(at.client(key))

    async with (
        serving(redis_url, tenants=place) as here, serving(redis_url, tenants=place) as there, AsyncExitStack() as stack,
    ):  # fmt: skip
        both = [client async for client in clients()]
        results = await asyncio.gather(*(attempt(both[n % 2], stack) for n in range(10)))
        assert sorted(results) == ["QUOTA_SESSIONS"] * 6 + ["admitted"] * 4
