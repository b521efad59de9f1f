"""Quotas in a real Valkey: taken in one step, lapsing by themselves, and counted once whatever the order of events."""

from __future__ import annotations

import asyncio
import dataclasses
import time
import uuid

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from liveact_services.errors import ServiceError
from liveact_services.sessions import (
    ENDED,
    Database,
    EmbeddedValkey,
    LeaseLost,
    Leases,
    RequestQuota,
    SessionRecord,
    SessionState,
    SessionStore,
)
from liveact_services.sessions.keys import SessionKeys
from liveact_services.sessions.quotas import HOLD_MS
from liveact_services.tenants import Quotas, Tenant
from session_fixtures import CLOSED, DETACHED, READY, START, STREAMING, Clock, admitted, fails, make_record

pytest_plugins = ["session_fixtures"]

DAY_S = 86400


async def lapse(database: Database, key: str, session: str) -> None:
    """Time passes for one place: nobody has renewed it for long."""
    await database.client.zadd(key, {session: 1}, xx=True)


async def made_ms(database: Database, tenant: str = "acme") -> int:
    return int(await database.client.hget(SessionKeys(database).usage_of_tenant(tenant), "ms") or 0)


async def held(store: SessionStore, leases: Leases, state: SessionState = STREAMING) -> tuple[SessionRecord, int]:
    """A session and its lease's token."""
    record = await admitted(store, state)
    return record, await leases.acquire(record.id, "g1", 60_000)


# ---- sessions and streams


async def test_streams_are_those_attached(store: SessionStore, leases: Leases) -> None:
    quotas = Quotas(streams=1)
    first, token = await held(store, leases)
    error = await fails(store.admit(make_record(), quotas), "QUOTA_STREAMS")
    assert (error.quota_subject, error.retry_after_s) == ("tenant:acme", None)
    await store.move(first.id, DETACHED, token=token, attached=False)
    second = make_record()
    await store.admit(second, quotas)
    await fails(store.attach(first.id, "acme", quotas), "QUOTA_STREAMS")
    await store.close(second.id, "acme")
    await store.attach(first.id, "acme", quotas)
    await store.attach(first.id, "acme", quotas)
    await fails(store.admit(make_record(), quotas), "QUOTA_STREAMS")
    await store.admit(make_record(tenant="globex"), quotas)
    await store.close(first.id, "acme")
    await fails(store.attach(first.id, "acme", quotas), "SESSION_ENDED")
    await fails(store.attach("unknown", "acme", quotas), "SESSION_NOT_FOUND")
    await store.admit(make_record(), quotas)


async def test_a_refused_session_takes_nothing(store: SessionStore, database: Database) -> None:
    keys = SessionKeys(database)
    for quotas, reason in ((Quotas(sessions=0), "QUOTA_SESSIONS"), (Quotas(streams=0), "QUOTA_STREAMS")):
        await fails(store.admit(make_record(), quotas), reason)
    await fails(store.admit(make_record(), Quotas(minutes_per_day=0)), "QUOTA_MINUTES")
    for key in (keys.places_of_tenant("acme"), keys.streams_of_tenant("acme"), keys.of_tenant("acme"), keys.due):
        assert not await database.client.exists(key)


async def test_streams_at_once_never_pass_the_quota(store: SessionStore) -> None:
    quotas = Quotas(sessions=50, streams=4)
    results = await asyncio.gather(*(store.admit(make_record(), quotas) for _ in range(20)), return_exceptions=True)
    assert sum(result is None for result in results) == 4
    assert {result.reason for result in results if isinstance(result, ServiceError)} == {"QUOTA_STREAMS"}


async def test_places_of_a_gateway_that_died_lapse_and_those_renewed_do_not(
    store: SessionStore, leases: Leases, database: Database
) -> None:
    keys, quotas = SessionKeys(database), Quotas(sessions=2, streams=2)
    dead, _ = await held(store, leases)
    alive, token = await held(store, leases)
    await fails(store.admit(make_record(), quotas), "QUOTA_SESSIONS")
    for key in (keys.places_of_tenant("acme"), keys.streams_of_tenant("acme")):
        for session in (dead.id, alive.id):
            left_ms = await database.client.zscore(key, session) - time.time() * 1000
            assert HOLD_MS - 20_000 < left_ms <= HOLD_MS + 1000
            await lapse(database, key, session)
    await store.touch(alive.id, token, attached=True)
    await store.admit(make_record(), quotas)
    await fails(store.admit(make_record(), quotas), "QUOTA_SESSIONS")


async def test_a_report_says_whether_a_client_is_attached(store: SessionStore, leases: Leases) -> None:
    quotas = Quotas(streams=1)
    record, token = await held(store, leases)
    await store.touch(record.id, token, attached=False)
    await store.touch(record.id, token)
    other = make_record()
    await store.admit(other, quotas)
    await store.close(other.id, "acme")
    await store.touch(record.id, token, attached=True)
    await fails(store.admit(make_record(), quotas), "QUOTA_STREAMS")


async def test_what_was_lost_with_redis_is_taken_again(store: SessionStore, leases: Leases, database: Database) -> None:
    record, _ = await held(store, leases)
    for key in await database.client.keys(f"{database.prefix}*"):
        await database.client.delete(key)
    await store.restore(dataclasses.replace(record, state=STREAMING, frame=500))
    token = await leases.acquire(record.id, "g1", 60_000)
    await store.touch(record.id, token, frame=520, attached=True)
    await fails(store.admit(make_record(), Quotas(sessions=1)), "QUOTA_SESSIONS")
    await fails(store.admit(make_record(), Quotas(streams=1)), "QUOTA_STREAMS")
    assert await made_ms(database) == 1000, "20 frames at 20 a second, the 500 before not again"


# ---- minutes


async def test_video_is_counted_once_however_often_it_is_reported(
    store: SessionStore, leases: Leases, database: Database
) -> None:
    record, token = await held(store, leases)
    for frame in (0, 1, 21, 21, 53, 53):
        await store.touch(record.id, token, frame=frame)
    assert await made_ms(database) == 53 * 50
    await store.move(record.id, DETACHED, token=token, frame=85)
    assert await made_ms(database) == 85 * 50
    with pytest.raises(LeaseLost):
        await store.touch(record.id, token - 1, frame=900)
    newer = await leases.acquire(record.id, "g2", 60_000, take_over=True)
    await store.touch(record.id, newer, frame=85)
    await store.close(record.id, "acme")
    assert await made_ms(database) == 85 * 50


@pytest.mark.parametrize("fps", [10, 17, 24, 30])
async def test_fractions_of_a_frame_do_not_add_up(
    store: SessionStore, leases: Leases, database: Database, fps: int
) -> None:
    record = await admitted(store, READY, fps=fps)
    token = await leases.acquire(record.id, "g1", 60_000)
    for frame in range(1, 54, 4):
        await store.touch(record.id, token, frame=frame)
    await store.touch(record.id, token, frame=53)
    assert await made_ms(database) == 53 * 1000 // fps


async def test_who_has_used_his_minutes_is_told_when_the_day_ends(
    store: SessionStore, leases: Leases, database: Database
) -> None:
    quotas = Quotas(minutes_per_day=0.05)
    record, token = await held(store, leases)
    assert await store.touch(record.id, token, frame=59, quotas=quotas) is None
    left = await store.touch(record.id, token, frame=60, quotas=quotas)
    assert left is not None
    # Midnight may pass between the two clocks' readings.
    assert abs(left - (DAY_S - time.time() % DAY_S)) % DAY_S < 30
    for refused in (store.admit(make_record(), quotas), store.attach(record.id, "acme", quotas)):
        error = await fails(refused, "QUOTA_MINUTES")
        assert error.retry_after_s is not None
        assert 0 < error.retry_after_s <= DAY_S
    await store.admit(make_record(tenant="globex"), quotas)
    # A day later.
    usage = SessionKeys(database).usage_of_tenant("acme")
    await database.client.hincrby(usage, "day", -1)
    await store.admit(make_record(), quotas)
    assert await store.touch(record.id, token, frame=80, quotas=quotas) is None
    assert await made_ms(database) == 1000


# ---- requests


async def test_requests_come_at_the_rate_with_a_burst(database: Database) -> None:
    quota = RequestQuota(database)
    slow = Tenant(id="slow", quotas=Quotas(requests_per_second=0.001, burst=3))
    for _ in range(3):
        await quota.spend(slow)
    error = await fails(quota.spend(slow), "QUOTA_REQUESTS")
    assert error.quota_subject == "tenant:slow"
    assert error.retry_after_s is not None
    assert 900 < error.retry_after_s <= 1000
    for tenant in (Tenant(id="free"), Tenant(id="other", quotas=slow.quotas)):
        await quota.spend(tenant)
    key = SessionKeys(database).requests_of_tenant("slow")
    assert 0 < await database.client.pttl(key) <= 3_001_000
    # The time told is the right one.
    at = float(await database.client.hget(key, "at"))
    await database.client.hset(key, "at", repr(at - error.retry_after_s))
    await quota.spend(slow)
    await fails(quota.spend(slow), "QUOTA_REQUESTS")


async def test_of_many_requests_at_once_only_the_burst_passes(database: Database) -> None:
    quota, tenant = RequestQuota(database), Tenant(id="t", quotas=Quotas(requests_per_second=0.01, burst=7))
    results = await asyncio.gather(*(quota.spend(tenant) for _ in range(40)), return_exceptions=True)
    assert sum(result is None for result in results) == 7


# ---- any order of events


class Ledgers(RuleBasedStateMachine):
    """One tenant's sessions under every order of events: against a model of what is held and what was made.

    A session's Gateway reports after whatever happens to it, as the Ledger does; one that died does not any more.
    """

    url = ""
    quotas = Quotas(sessions=3, streams=2, minutes_per_day=0.1)

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.database = Database.connect(self.url, prefix=f"machine-{uuid.uuid4()}:")
        self.clock = Clock()
        self.store = SessionStore(self.database, clock=self.clock)
        self.leases, self.keys = Leases(self.database), SessionKeys(self.database)
        self.tokens: dict[str, int] = {}
        self.places: set[str] = set()
        self.streams: set[str] = set()
        self.dead: set[str] = set()
        self.frames: dict[str, int] = {}
        self.over = False

    def teardown(self) -> None:
        self.runner.run(self.database.aclose())
        self.runner.close()

    def attempt(self, coroutine: object) -> object:
        try:
            return self.runner.run(coroutine)  # type: ignore[arg-type]
        except ServiceError as error:
            return error.reason

    def expected(self, session: str | None, *, place: bool) -> str | None:
        """Why a stream would be refused now."""
        if place and len(self.places) >= 3:
            return "QUOTA_SESSIONS"
        if session not in self.streams and len(self.streams) >= 2:
            return "QUOTA_STREAMS"
        return "QUOTA_MINUTES" if self.made() >= 6000 else None

    def made(self) -> int:
        return sum(frame * 50 for frame in self.frames.values())

    @rule(reply_lost=st.booleans())
    def admit(self, reply_lost: bool) -> None:
        record = make_record(expire_time=START + 1000)
        expected = self.expected(None, place=True)
        assert self.attempt(self.store.admit(record, self.quotas)) == expected
        if expected is not None:
            return
        # A call that is made again because its reply was lost finds itself there, whatever the quotas say by now.
        assert self.attempt(self.store.admit(record, self.quotas)) == "SESSION_EXISTS"
        self.places.add(record.id)
        self.streams.add(record.id)
        if reply_lost:
            self.dead.add(record.id)
            return
        self.runner.run(self.store.move(record.id, READY))
        self.tokens[record.id] = self.runner.run(self.leases.acquire(record.id, "g", 600_000))
        self.frames[record.id] = 0

    def one(self, data: st.DataObject) -> str:
        # In the order of admission: ids are random, and a draw must mean the same when it is made again.
        return data.draw(st.sampled_from(list(self.tokens)))

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), more=st.integers(0, 40), times=st.integers(1, 2))
    def report(self, data: st.DataObject, more: int, times: int) -> None:
        session = self.one(data)
        self.frames[session] += more
        for _ in range(times):
            over = self.runner.run(
                self.store.touch(
                    session, self.tokens[session], frame=self.frames[session], attached=session in self.streams,
                    quotas=self.quotas,
                )
            )  # fmt: skip
        assert (over is not None) == (self.made() >= 6000)
        self.places.add(session)

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), more=st.integers(0, 40))
    def detach(self, data: st.DataObject, more: int) -> None:
        session = self.one(data)
        token, frame = self.tokens[session], self.frames[session] + more
        moved = self.attempt(self.store.move(session, DETACHED, token=token, attached=False, frame=frame))
        if isinstance(moved, SessionRecord):
            self.frames[session] = frame
            self.streams.discard(session)
        else:
            assert moved == "SESSION_STATE_CONFLICT"

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), times=st.integers(1, 3))
    def resume(self, data: st.DataObject, times: int) -> None:
        session = self.one(data)
        expected = self.expected(session, place=False)
        for _ in range(times):
            assert self.attempt(self.store.attach(session, "acme", self.quotas)) == expected
        if expected is None:
            self.streams.add(session)
            self.attempt(self.store.move(session, STREAMING, token=self.tokens[session]))

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), ending=st.sampled_from(sorted(ENDED)), asked=st.booleans(), more=st.integers(0, 40))
    def end(self, data: st.DataObject, ending: SessionState, asked: bool, more: int) -> None:
        session = self.one(data)
        token = self.tokens.pop(session)
        if asked:
            assert self.runner.run(self.store.close(session, "acme")).state is CLOSED
        else:
            self.frames[session] += more
            self.runner.run(self.store.move(session, ending, token=token, frame=self.frames[session]))
        self.places.discard(session)
        self.streams.discard(session)

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def gateway_dies(self, data: st.DataObject) -> None:
        session = self.one(data)
        del self.tokens[session]
        self.dead.add(session)

    @precondition(lambda self: self.dead)
    @rule()
    def places_of_the_dead_lapse(self) -> None:
        for session in self.dead:
            for key in (self.keys.places_of_tenant("acme"), self.keys.streams_of_tenant("acme")):
                self.runner.run(lapse(self.database, key, session))
        self.places -= self.dead
        self.streams -= self.dead

    @precondition(lambda self: self.dead)
    @rule()
    def the_dead_are_swept(self) -> None:
        for session in self.tokens:
            self.runner.run(self.store.touch(session, self.tokens[session], expire_time=self.clock.now + 20_000))
            self.places.add(session)
        self.clock.now += 10_000
        self.runner.run(self.store.sweep())
        self.places -= self.dead
        self.streams -= self.dead
        self.dead.clear()

    @invariant()
    def what_is_held_and_made_is_as_modelled(self) -> None:
        now = time.time() * 1000
        for key, model in (
            (self.keys.places_of_tenant("acme"), self.places), (self.keys.streams_of_tenant("acme"), self.streams),
        ):  # fmt: skip
            stored = self.runner.run(self.database.client.zrangebyscore(key, now, "+inf"))
            assert {session.decode() for session in stored} == model
        assert len(self.places) <= 3
        assert len(self.streams) <= 2
        assert self.runner.run(made_ms(self.database)) == self.made()


def test_no_order_of_events_counts_twice_or_passes_a_quota(
    valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Places lapse here when the test says so, and not because the machine is slow.
    monkeypatch.setattr("liveact_services.sessions.store.HOLD_MS", 3_600_000)
    Ledgers.url = valkey.url
    run_state_machine_as_test(
        Ledgers,
        settings=settings(
            max_examples=50, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
