"""The session store against a real Valkey: records, quotas, moves, resuming, sweeping, avatars."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from liveact.v1 import avatar_pb2
from liveact_services.errors import ServiceError
from liveact_services.sessions import (
    ENDED,
    MOVES,
    AvatarStore,
    Database,
    IllegalMove,
    Leases,
    SessionRecord,
    SessionState,
    SessionStore,
)
from liveact_services.sessions.names import avatar_id, session_id
from liveact_services.sessions.tokens import new_resume_token, token_hash
from liveact_services.tenants import Quotas
from session_fixtures import (
    ADMITTED,
    CLOSED,
    DETACHED,
    EXPIRED,
    FAILED,
    READY,
    START,
    STREAMING,
    Clock,
    admitted,
    fails,
    make_record,
)

pytest_plugins = ["session_fixtures"]


# ---- records and names


async def test_a_record_reads_back_as_written(store: SessionStore) -> None:
    record = make_record(prompt="línea\n線", create_time=1 / 3, gateway="g", block=7, frame=245)
    await store.admit(record)
    assert await store.get(record.id, "acme") == record


async def test_a_field_of_a_newer_version_is_left_alone(store: SessionStore, database: Database) -> None:
    record = await admitted(store)
    await database.client.hset(database.key("session", record.id), "added_next_year", "1")
    assert await store.get(record.id, "acme") == record


async def test_a_damaged_record_says_so(store: SessionStore, database: Database) -> None:
    record = await admitted(store)
    await database.client.hset(database.key("session", record.id), "fps", "many")
    with pytest.raises(ValueError, match=record.id):
        await store.get(record.id, "acme")


def test_a_record_as_a_client_sees_it() -> None:
    session = make_record(state=STREAMING, frame=53, resume_hash="h").to_proto()
    assert session.name.startswith("sessions/")
    assert (session.state, session.frames, session.width) == (avatar_pb2.SESSION_STATE_STREAMING, 53, 64)
    assert session.create_time.ToMicroseconds() == 1_700_000_000_250_000
    assert session.resume_token == ""


def test_the_states_are_the_protos() -> None:
    names = {f"SESSION_STATE_{state.name}": state.value for state in SessionState}
    assert names == {k: v for k, v in avatar_pb2.SessionState.items() if v != 0}
    assert set(MOVES) == set(SessionState)


@pytest.mark.parametrize(
    "name", ["", "sessions/", "abc", "avatars/abc", "sessions/a/b", "sessions/../x", "sessions/A b"]
)
async def test_a_wrong_session_name_is_refused(name: str) -> None:
    with pytest.raises(ServiceError) as caught:
        session_id(name)
    assert caught.value.reason == "SESSION_NAME_INVALID"


def test_names_hold_their_ids() -> None:
    assert session_id("sessions/abc-1") == "abc-1"
    assert avatar_id("avatars/9") == "9"
    with pytest.raises(ServiceError, match="AVATAR_NAME_INVALID"):
        avatar_id("sessions/9")


# ---- tenants and quotas


async def test_another_tenants_session_is_not_found(store: SessionStore) -> None:
    record = await admitted(store)
    await fails(store.get(record.id, "other"), "SESSION_NOT_FOUND")
    await fails(store.close(record.id, "other"), "SESSION_NOT_FOUND")
    assert await store.list("other") == []
    assert (await store.get(record.id, "acme")).state is ADMITTED


async def test_sessions_are_listed_newest_first(store: SessionStore) -> None:
    for age in (2, 0, 1):
        await store.admit(make_record(id=f"s{age}", create_time=START - age))
    assert [record.id for record in await store.list("acme")] == ["s0", "s1", "s2"]


async def test_an_id_is_admitted_once(store: SessionStore) -> None:
    record = await admitted(store)
    await fails(store.admit(dataclasses.replace(record, tenant="other")), "SESSION_EXISTS")
    assert await store.list("other") == []


async def test_admission_at_once_never_passes_the_quota(store: SessionStore) -> None:
    results = await asyncio.gather(
        *(store.admit(make_record(), Quotas(sessions=5)) for _ in range(20)), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, ServiceError)]
    assert len(refused) == 15
    assert {error.reason for error in refused} == {"QUOTA_SESSIONS"}
    assert len(await store.list("acme")) == 5
    await store.admit(make_record(tenant="other"), Quotas(sessions=5))


@pytest.mark.parametrize("ending", sorted(ENDED))
async def test_an_ended_session_gives_its_place_back(store: SessionStore, ending: SessionState) -> None:
    record = make_record()
    await store.admit(record, Quotas(sessions=1))
    await fails(store.admit(make_record(), Quotas(sessions=1)), "QUOTA_SESSIONS")
    await store.move(record.id, ending)
    await store.admit(make_record(), Quotas(sessions=1))


# ---- moves


@pytest.mark.parametrize("target", list(SessionState))
@pytest.mark.parametrize("source", list(SessionState))
async def test_exactly_the_tables_moves_are_made(
    store: SessionStore, source: SessionState, target: SessionState
) -> None:
    record = await admitted(store, source)
    if target in MOVES[source]:
        assert (await store.move(record.id, target, block=3)).state is target
        assert (await store.get(record.id, "acme")).block == 3
    else:
        with pytest.raises(IllegalMove) as caught:
            await store.move(record.id, target, block=3)
        assert (caught.value.current, caught.value.target) == (source, target)
        assert await store.get(record.id, "acme") == record


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (EXPIRED, "SESSION_EXPIRED"),
        (CLOSED, "SESSION_ENDED"),
        (FAILED, "SESSION_ENDED"),
        (ADMITTED, "SESSION_STATE_CONFLICT"),
    ],
)
async def test_a_refused_move_tells_the_client_why(store: SessionStore, source: SessionState, reason: str) -> None:
    record = await admitted(store, source)
    await fails(store.move(record.id, STREAMING), reason)


async def test_of_two_moves_at_once_one_is_made(store: SessionStore) -> None:
    record = await admitted(store, DETACHED)
    results = await asyncio.gather(
        *(store.move(record.id, STREAMING, gateway=f"g{n}") for n in range(8)), return_exceptions=True
    )
    won = [result for result in results if isinstance(result, SessionRecord)]
    assert len(won) == 1
    assert await store.get(record.id, "acme") == won[0]


async def test_a_move_cannot_write_what_is_not_the_callers(store: SessionStore) -> None:
    record = await admitted(store)
    for field in ("tenant", "state", "id", "colour"):
        with pytest.raises(TypeError, match=field):
            await store.move(record.id, READY, **{field: "x"})  # type: ignore[arg-type]
    await fails(store.move("unknown", READY), "SESSION_NOT_FOUND")


async def test_closing_twice_is_closing_once(store: SessionStore) -> None:
    record = await admitted(store, STREAMING)
    assert (await store.close(record.id, "acme")).state is CLOSED
    assert (await store.close(record.id, "acme")).state is CLOSED
    failed = await admitted(store, FAILED)
    assert (await store.close(failed.id, "acme")).state is FAILED


# ---- resuming


async def test_a_resume_token_opens_its_session_only(store: SessionStore, database: Database) -> None:
    record = make_record()
    token = new_resume_token(record.id)
    await store.admit(dataclasses.replace(record, resume_hash=token_hash(token)))
    bare = await admitted(store)
    assert (await store.resume(token, "acme")).id == record.id
    stored = await database.client.hgetall(database.key("session", record.id))
    assert token.encode() not in stored.values()
    secret = token.partition(".")[2]
    wrong = ["", "nonsense", f"{record.id}.", f"{record.id}.x", f"{bare.id}.{secret}", f"unknown.{secret}", "\ud800.x"]
    for attempt in wrong:
        await fails(store.resume(attempt, "acme"), "RESUME_TOKEN_INVALID")
    await fails(store.resume(token, "other"), "RESUME_TOKEN_INVALID")


async def test_an_ended_session_does_not_resume(store: SessionStore, clock: Clock) -> None:
    for ending, reason in ((CLOSED, "SESSION_ENDED"), (EXPIRED, "RESUME_TOKEN_EXPIRED"), (FAILED, "SESSION_ENDED")):
        record = make_record()
        token = new_resume_token(record.id)
        await store.admit(dataclasses.replace(record, resume_hash=token_hash(token)))
        await store.move(record.id, ending)
        await fails(store.resume(token, "acme"), reason)
    record = make_record()
    token = new_resume_token(record.id)
    await store.admit(dataclasses.replace(record, resume_hash=token_hash(token)))
    clock.now = record.expire_time
    await fails(store.resume(token, "acme"), "RESUME_TOKEN_EXPIRED")


# ---- sweeping


async def test_the_sweep_ends_what_is_over_and_forgets_it_later(
    store: SessionStore, leases: Leases, clock: Clock, database: Database
) -> None:
    detached = await admitted(store, DETACHED)
    orphan = await admitted(store, STREAMING)
    idle = await admitted(store, STREAMING)
    alive = await admitted(store, STREAMING)
    closed = await admitted(store, CLOSED)
    await leases.acquire(idle.id, "g1", 60_000)
    token = await leases.acquire(alive.id, "g1", 60_000)
    assert await store.sweep() == {"EXPIRED": 0, "FAILED": 0, "FORGOTTEN": 0}

    clock.now = START + 60
    await store.touch(alive.id, token, expire_time=clock.now + 60)
    assert await database.client.zscore(database.key("sessions", "due"), alive.id) == START + 120
    assert await store.sweep() == {"EXPIRED": 2, "FAILED": 1, "FORGOTTEN": 0}
    states = {record.id: record.state for record in await store.list("acme")}
    assert states == {
        detached.id: EXPIRED, orphan.id: FAILED, idle.id: EXPIRED, alive.id: STREAMING, closed.id: CLOSED,
    }  # fmt: skip
    await fails(leases.acquire(idle.id, "g1", 1000), "SESSION_EXPIRED")
    await store.admit(make_record(expire_time=START + 500), Quotas(sessions=2))

    assert (await store.sweep(START + 100))["FORGOTTEN"] == 1
    await store.close(alive.id, "acme")
    assert sum((await store.sweep(START + 1000)).values()) == 4 + 1
    assert sum((await store.sweep(START + 2000)).values()) == 1
    assert await database.client.keys(f"{database.prefix}*") == []


async def test_a_session_put_off_after_the_sweep_looked_is_spared(store: SessionStore, database: Database) -> None:
    record = await admitted(store, DETACHED)
    # What a sweep saw a moment ago.
    await database.client.zadd(database.key("sessions", "due"), {record.id: START})
    assert await store.sweep(START + 1) == {"EXPIRED": 0, "FAILED": 0, "FORGOTTEN": 0}
    assert (await store.get(record.id, "acme")).state is DETACHED


async def test_many_sweepers_count_each_session_once(store: SessionStore) -> None:
    for _ in range(30):
        await admitted(store, DETACHED)
    swept = await asyncio.gather(*(store.sweep(START + 61) for _ in range(4)))
    assert sum(counts["EXPIRED"] for counts in swept) == 30


# ---- avatars


async def test_an_avatar_is_its_tenants_alone(database: Database, clock: Clock) -> None:
    avatars = AvatarStore(database, clock=clock)
    first = await avatars.create("acme", "Ada", b"\x00picture\xff", 640, 480)
    clock.now += 1
    second = await avatars.create("acme", "", b"other", 1, 2)
    assert await avatars.get(first.id, "acme") == first
    assert await avatars.image(first.id, "acme") == b"\x00picture\xff"
    assert [avatar.id for avatar in await avatars.list("acme")] == [second.id, first.id]
    proto = first.to_proto()
    assert (proto.name, proto.display_name, proto.source_width) == (f"avatars/{first.id}", "Ada", 640)

    await fails(avatars.get(first.id, "other"), "AVATAR_NOT_FOUND")
    await fails(avatars.image(first.id, "other"), "AVATAR_NOT_FOUND")
    await fails(avatars.delete(first.id, "other"), "AVATAR_NOT_FOUND")
    await fails(avatars.create("acme", "x" * 129, b"p", 1, 1), "DISPLAY_NAME_TOO_LONG")

    for avatar in (first, second):
        await avatars.delete(avatar.id, "acme")
    await fails(avatars.delete(first.id, "acme"), "AVATAR_NOT_FOUND")
    assert await database.client.keys(f"{database.prefix}*") == []
