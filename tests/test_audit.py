"""The audit trail: what is told of whom, that nothing waits for it, and that a changed one is found out."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from liveact.v1 import avatar_pb2 as pb
from liveact_services.audit import trail as trail_module
from liveact_services.audit.config import AuditConfig
from liveact_services.audit.event import Action, AuditEvent
from liveact_services.audit.reading import moment, read_trails
from liveact_services.audit.store import AuditStore
from liveact_services.audit.trail import AuditTrail
from liveact_services.audit.witness import swept
from liveact_services.client import AvatarClient
from liveact_services.errors import ClientError
from liveact_services.sessions import Database, SessionStore
from session_fixtures import DETACHED, admitted
from store_fixtures import Failing
from tenant_fixtures import Tenants, picture, serving, session

pytest_plugins = ["session_fixtures", "store_fixtures", "tenant_fixtures"]

SHA = hashlib.sha256(picture()).hexdigest()


@pytest.fixture
def trails(database: Database) -> AuditStore:
    return AuditStore(database, AuditConfig())


def event(tenant: str = "acme", action: Action = Action.OPENED, **fields: Any) -> AuditEvent:
    return AuditEvent(action, tenant, time.time(), **fields)


async def events_of(url: str, tenant: str) -> list[dict[str, Any]]:
    """A tenant's, once nothing new has come for a while."""
    database = Database.connect(url)
    try:
        seen: list[dict[str, Any]] = []
        for _ in range(40):
            await asyncio.sleep(0.25)
            (told,) = await read_trails(AuditStore(database, AuditConfig()), tenant)
            assert told["faults"] == []
            if seen and told["events"] == seen:
                break
            seen = told["events"]
        return seen
    finally:
        await database.aclose()


async def drained(client: AvatarClient, config: pb.SessionConfig) -> tuple[str, int]:
    """A session that says nothing, to its end: its id and how many frames came."""
    frames = 0
    async with client.stream(config) as stream:
        await stream.ready()
        await stream.send_audio(bytes(2 * 16000), "a")
        await stream.end_utterance("a")
        await stream.close()
        async for message in stream:
            if isinstance(message, pb.VideoChunk):
                frames += len(message.frames)
    return stream.session.name.removeprefix("sessions/"), frames


# ---- what a Gateway tells -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_process")
async def test_a_session_is_told_from_its_opening_to_its_end(
    redis_url: str, tenants: Tenants, caplog: pytest.LogCaptureFixture
) -> None:
    key = tenants.add("acme")
    with caplog.at_level(logging.INFO, "liveact_services.audit"):
        async with serving(redis_url, tenants=str(tenants.write())) as at, at.client(key) as client:
            name, frames = await drained(client, session(prompt="a secret wish"))
            told = await events_of(redis_url, "acme")
    assert [e["action"] for e in told] == ["session.opened", "session.closed"]
    opened, closed = told
    assert (opened["session"], closed["session"]) == (name, name)
    assert opened["portrait_sha256"] == SHA
    assert opened["key"] == tenants.entries["acme"]["keys"][0]["id"]
    assert opened["peer"].startswith("ipv4:127.0.0.1:")
    assert (closed["frames"], closed["seconds"]) == (frames, frames / 20)
    assert closed["acknowledged"] == frames
    lines = [r.getMessage().removeprefix("audit ") for r in caplog.records if r.getMessage().startswith("audit {")]
    assert [json.loads(line)["id"] for line in lines] == [opened["id"], closed["id"]], "the log has the same events"
    assert key not in json.dumps(told) + "".join(lines)
    assert "secret wish" not in json.dumps(told) + "".join(lines)


@pytest.mark.usefixtures("in_process")
async def test_avatars_refusals_deletions_and_failures_are_told(redis_url: str, tenants: Tenants) -> None:
    key = tenants.add("acme")
    async with serving(redis_url, tenants=str(tenants.write())) as at, at.client(key) as client:
        avatar = (await client.create_avatar(picture())).name
        with pytest.raises(ClientError, match="IMAGE_EMPTY"):
            await client.create_avatar(b"")
        with pytest.raises(ClientError, match="FPS_UNSUPPORTED"):
            async with client.stream(session(fps=99)):
                pass
        async with client.stream(session(image=None, avatar=avatar)) as stream:
            await stream.ready()
            await client.delete_session(stream.session.name)
        async with client.stream(session()) as stream:
            await stream.ready()
            await stream.update("x" * 5000)
            with pytest.raises(ClientError, match="PROMPT_TOO_LONG"):
                await anext(message async for message in stream if isinstance(message, pb.VideoChunk))
        await client.delete_avatar(avatar)
        told = await events_of(redis_url, "acme")
    short = [(e["action"], e.get("reason", "")) for e in told]
    assert short == [
        ("avatar.created", ""), ("avatar.refused", "IMAGE_EMPTY"), ("session.refused", "FPS_UNSUPPORTED"),
        ("session.opened", ""), ("session.closed", ""), ("session.deleted", ""),
        ("session.opened", ""), ("session.failed", "PROMPT_TOO_LONG"), ("avatar.deleted", ""),
    ]  # fmt: skip
    assert told[0]["avatar"] == told[3]["avatar"] == told[8]["avatar"] == avatar.removeprefix("avatars/")
    assert told[0]["portrait_sha256"] == told[3]["portrait_sha256"] == SHA


@pytest.mark.usefixtures("in_process")
async def test_a_stranger_is_told_without_a_tenant(redis_url: str, tenants: Tenants) -> None:
    tenants.add("acme")
    async with serving(redis_url, tenants=str(tenants.write())) as at, at.client() as client:
        with pytest.raises(ClientError, match="CREDENTIALS_MISSING"):
            async with client.stream(session()):
                pass
        (told,) = await events_of(redis_url, "")
    assert (told["action"], told["reason"], told["tenant"]) == ("session.refused", "CREDENTIALS_MISSING", "")


@pytest.mark.usefixtures("in_process")
async def test_a_resume_and_an_expiry_are_told(redis_url: str) -> None:
    async with serving(redis_url, sessions={"detached_timeout_s": 0.6}) as at, at.client() as client:
        async with client.stream(session(), resume=False) as stream:
            await stream.ready()
            token = stream.session.resume_token
        async with client.resume(token, 0):
            pass
        await asyncio.sleep(1.5)
        told = await events_of(redis_url, "default")
    assert [(e["action"], e.get("detail", "")) for e in told] == [
        ("session.opened", ""), ("session.resumed", "here"), ("session.expired", ""),
    ]  # fmt: skip


async def test_the_end_of_a_session_whose_server_died_is_told_by_who_sweeps_it(
    database: Database, store: SessionStore, clock: Any, trails: AuditStore
) -> None:
    trail = AuditTrail(trails, AuditConfig(), "gateway-2")
    record = await admitted(store, DETACHED, frame=40)
    clock.now += 1000
    assert (await store.sweep(ended=lambda *about: swept(trail, *about)))["EXPIRED"] == 1
    assert trail.waiting == 1
    running = asyncio.create_task(trail.run())
    await trail.flush(5)
    running.cancel()
    ((told,),) = [t["events"] for t in await read_trails(trails)]
    assert (told["action"], told["session"], told["frames"]) == ("session.expired", record.id, 40)
    assert told["gateway"] == "gateway-2"


# ---- the chain ---------------------------------------------------------------------------------------------------------------


async def test_several_writers_make_one_chain(database: Database) -> None:
    writers = [AuditStore(database, AuditConfig()) for _ in range(4)]
    await asyncio.gather(
        *(
            writer.append("acme", [event(reason=f"{i}"), event(reason=f"{i}+")])
            for i, writer in enumerate(writers)
            for _ in "12"
        )
    )
    (told,) = await read_trails(writers[0])
    assert told["faults"] == []
    assert [e["number"] for e in told["events"]] == list(range(16))
    reasons = [e["reason"] for e in told["events"]]
    assert all(after == f"{before}+" for before, after in zip(reasons[::2], reasons[1::2], strict=True))


@pytest.mark.parametrize("how", ["changed", "removed", "added", "cut off", "begun anew"])
async def test_what_was_done_to_the_trail_is_found(database: Database, trails: AuditStore, how: str) -> None:
    for number in range(6):
        await trails.append("acme", [event(frames=number)])
    key, client = database.key("tenant", "acme", "audit"), database.client
    entries = await client.xrange(key)
    if how == "changed":
        await client.delete(key)
        for i, (_, fields) in enumerate(entries):
            line = fields[b"event"].replace(b'"frames":3', b'"frames":9') if i == 3 else fields[b"event"]
            await client.xadd(key, {"event": line, "hash": fields[b"hash"]})
    elif how == "removed":
        await client.xdel(key, entries[2][0])
    elif how == "added":
        await client.xadd(key, entries[0][1])
    elif how == "cut off":
        await client.xdel(key, entries[5][0])
    else:
        await client.delete(key)
    (told,) = await read_trails(trails, "acme")
    assert told["faults"]


async def test_old_events_go_and_the_rest_still_holds(database: Database) -> None:
    trails = AuditStore(database, AuditConfig(keep_events=100))
    for _ in range(10):
        await trails.append("acme", [event() for _ in range(50)])
    (told,) = await read_trails(trails)
    assert told["faults"] == []
    assert 100 <= len(told["events"]) < 300, "trimmed by whole nodes of the stream"
    assert told["events"][-1]["number"] == 499
    later = AuditStore(database, AuditConfig(keep_days=1), clock=lambda: time.time() + 3 * 86400)
    await later.append("acme", [event()])
    assert 0 < await database.client.ttl(database.key("tenant", "acme", "audit")) <= 86400


async def test_an_event_written_twice_is_told_once(trails: AuditStore) -> None:
    one = event()
    await trails.append("acme", [one])
    await trails.append("acme", [one])
    (told,) = await read_trails(trails)
    assert [e["id"] for e in told["events"]] == [one.id]
    assert told["faults"] == []


# ---- a store that is away ----------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def outside(failing: Failing) -> AsyncIterator[AuditStore]:
    database = Database.connect(failing.url, timeout_s=0.5)
    yield AuditStore(database, AuditConfig())
    await database.aclose()


async def test_events_wait_while_the_store_is_away_and_what_did_not_fit_is_told(
    failing: Failing, outside: AuditStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trail_module, "MAX_WAITING", 30)
    monkeypatch.setattr(trail_module, "RETRY_S", 0.1)
    caplog.set_level("INFO")
    trail = AuditTrail(outside, AuditConfig(), "gateway-1")
    running = asyncio.create_task(trail.run())
    trail.record(Action.OPENED, "acme", session="first")
    await trail.flush(5)
    await failing.fail("stopped")
    began = time.monotonic()
    for number in range(40):
        trail.record(Action.OPENED, "acme", session=f"s{number}")
    assert time.monotonic() - began < 0.2, "who records an event waits for nobody"
    await asyncio.sleep(1.5)
    assert trail.waiting == 30
    assert sum("audit {" in r.getMessage() for r in caplog.records) == 41, "the log has all of them at once"
    assert any("audit events wait" in r.getMessage() for r in caplog.records)
    await failing.recover("stopped")
    await trail.flush(20)
    running.cancel()
    (told,) = await read_trails(outside)
    assert told["faults"] == []
    assert [e["session"] for e in told["events"][:-1]] == ["first", *(f"s{n}" for n in range(30))]
    assert (told["events"][-1]["action"], told["events"][-1]["count"]) == ("audit.gap", 10)


async def test_a_flood_of_refusals_is_counted_and_pushes_nothing_out(trails: AuditStore) -> None:
    now = [1000.0]
    trail = AuditTrail(trails, AuditConfig(), "gateway-1", clock=lambda: now[0])
    for _ in range(5000):
        trail.record(Action.REFUSED, "acme", reason="IMAGE_EMPTY")
    trail.record(Action.REFUSED, "other", reason="IMAGE_EMPTY")
    trail.record(Action.OPENED, "acme")
    assert trail.waiting == 102
    now[0] += 1
    trail.record(Action.REFUSED, "acme", reason="IMAGE_EMPTY")
    assert trail._waiting["acme"][-1].count == 4900


def test_moments_are_read() -> None:
    assert moment("2h", 10_000.0) == 2800.0
    assert moment("2026-11-23", 0.0) == 1795392000.0
    assert moment("2026-11-23T01:00:00+01:00", 0.0) == 1795392000.0
    with pytest.raises(ValueError, match="accepted are 90m"):
        moment("yesterday", 0.0)
