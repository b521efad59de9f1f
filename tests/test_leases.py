"""Leases against a real Valkey: one holder at a time, whatever the order of events."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from liveact_services.errors import ServiceError
from liveact_services.sessions import (
    ENDED,
    MOVES,
    Database,
    EmbeddedValkey,
    IllegalMove,
    LeaseLost,
    Leases,
    SessionRecord,
    SessionState,
    SessionStore,
)
from session_fixtures import (
    ADMITTED,
    READY,
    START,
    STREAMING,
    Clock,
    admitted,
    fails,
    make_record,
)

pytest_plugins = ["session_fixtures"]


async def test_of_many_who_want_a_lease_one_gets_it(store: SessionStore, leases: Leases) -> None:
    record = await admitted(store)
    results = await asyncio.gather(
        *(leases.acquire(record.id, f"g{n}", 60_000) for n in range(10)), return_exceptions=True
    )
    tokens = [result for result in results if isinstance(result, int)]
    assert len(tokens) == 1
    busy = next(result for result in results if isinstance(result, ServiceError))
    assert busy.reason == "SESSION_BUSY"
    assert 50 < (busy.retry_after_s or 0) <= 60
    assert (await store.get(record.id, "acme")).token == tokens[0]


async def test_a_lapsed_lease_is_free_and_its_token_dead(store: SessionStore, leases: Leases) -> None:
    record = await admitted(store)
    first = await leases.acquire(record.id, "g1", 30)
    await asyncio.sleep(0.06)
    with pytest.raises(LeaseLost):
        await leases.renew(record.id, first, 60_000)
    second = await leases.acquire(record.id, "g2", 60_000)
    assert second > first
    for stale in (
        leases.renew(record.id, first, 60_000),
        leases.release(record.id, first),
        store.touch(record.id, first, block=9),
        store.move(record.id, READY, token=first),
    ):
        with pytest.raises(LeaseLost):
            await stale
    after = await store.get(record.id, "acme")
    assert (after.block, after.state, after.gateway, after.token) == (0, ADMITTED, "g2", second)
    await store.touch(record.id, second, block=9, frame=277, expire_time=START + 500)
    after = await store.get(record.id, "acme")
    assert (after.block, after.frame, after.expire_time) == (9, 277, START + 500)


async def test_a_renewed_lease_outlives_its_first_term(store: SessionStore, leases: Leases) -> None:
    record = await admitted(store)
    token = await leases.acquire(record.id, "g1", 200)
    await leases.renew(record.id, token, 60_000)
    await asyncio.sleep(0.25)
    await fails(leases.acquire(record.id, "g2", 1000), "SESSION_BUSY")
    await leases.release(record.id, token)
    assert await leases.acquire(record.id, "g2", 1000) > token


async def test_a_client_with_its_resume_token_displaces_its_old_stream(store: SessionStore, leases: Leases) -> None:
    record = await admitted(store)
    old = await leases.acquire(record.id, "g1", 60_000)
    new = await leases.acquire(record.id, "g2", 60_000, take_over=True)
    assert new > old
    error = await fails(store.touch(record.id, old, block=1), "SESSION_TAKEN_OVER")
    assert isinstance(error, LeaseLost)
    await store.touch(record.id, new, block=1)


async def test_an_end_frees_the_lease(store: SessionStore, leases: Leases) -> None:
    record = await admitted(store, STREAMING)
    token = await leases.acquire(record.id, "g1", 60_000)
    await store.close(record.id, "acme")
    with pytest.raises(LeaseLost):
        await store.touch(record.id, token, frame=1)
    await fails(leases.acquire(record.id, "g1", 60_000), "SESSION_ENDED")
    await fails(leases.acquire("unknown", "g1", 60_000), "SESSION_NOT_FOUND")
    with pytest.raises(ValueError, match="ttl_ms 0"):
        await leases.renew(record.id, token, 0)


async def test_tokens_go_on_growing_when_redis_lost_its_data(
    store: SessionStore, leases: Leases, database: Database
) -> None:
    record = await admitted(store, STREAMING)
    token = await leases.acquire(record.id, "g1", 60_000)
    assert not await store.restore(record)
    for key in await database.client.keys(f"{database.prefix}*"):
        await database.client.delete(key)
    await fails(store.touch(record.id, token, frame=1), "SESSION_NOT_FOUND")
    # `record` is from before the lease, so it holds an older token.
    assert await store.restore(record)
    await asyncio.sleep(0.002)
    assert await leases.acquire(record.id, "g1", 60_000) > token
    assert [found.id for found in await store.list("acme")] == [record.id]


class LeaseAndState(RuleBasedStateMachine):
    """One session, three owners, every order of events: against a model of who holds it and where it stands."""

    url = ""
    owners = st.sampled_from(["a", "b", "c"])

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.database = Database.connect(self.url, prefix=f"machine-{uuid.uuid4()}:")
        self.store = SessionStore(self.database, clock=Clock())
        self.leases = Leases(self.database)
        self.record = make_record()
        self.runner.run(self.store.admit(self.record))
        self.state = ADMITTED
        self.given: dict[int, str] = {}
        self.holder: int | None = None

    def teardown(self) -> None:
        self.runner.run(self.database.aclose())
        self.runner.close()

    def attempt(self, coroutine: object) -> object:
        try:
            return self.runner.run(coroutine)  # type: ignore[arg-type]
        except ServiceError as error:
            return error

    @rule(owner=owners, take_over=st.booleans())
    def acquire(self, owner: str, take_over: bool) -> None:
        result = self.attempt(self.leases.acquire(self.record.id, owner, 60_000, take_over=take_over))
        if self.state in ENDED:
            assert isinstance(result, ServiceError)
            assert result.reason in ("SESSION_ENDED", "SESSION_EXPIRED")
        elif self.holder is not None and not take_over:
            assert isinstance(result, ServiceError)
            assert result.reason == "SESSION_BUSY"
        else:
            assert isinstance(result, int)
            assert result > max(self.given, default=0)
            self.given[result] = owner
            self.holder = result

    @rule()
    def lapse(self) -> None:
        lease = self.database.key("session", self.record.id, "lease")
        self.runner.run(self.database.call(self.database.client.delete(lease)))
        self.holder = None

    @precondition(lambda self: self.given)
    @rule(data=st.data(), verb=st.sampled_from(["renew", "release", "touch"]))
    def use(self, data: st.DataObject, verb: str) -> None:
        token = data.draw(st.sampled_from(sorted(self.given)))
        calls = {
            "renew": lambda: self.leases.renew(self.record.id, token, 60_000),
            "release": lambda: self.leases.release(self.record.id, token),
            "touch": lambda: self.store.touch(self.record.id, token, block=1),
        }
        result = self.attempt(calls[verb]())
        assert isinstance(result, LeaseLost) == (token != self.holder)
        if verb == "release" and token == self.holder:
            self.holder = None

    @rule(to_state=st.sampled_from(list(SessionState)), fenced=st.booleans(), data=st.data())
    def move(self, to_state: SessionState, fenced: bool, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(sorted(self.given))) if fenced and self.given else None
        result = self.attempt(self.store.move(self.record.id, to_state, token=token))
        if token is not None and token != self.holder:
            assert isinstance(result, LeaseLost)
        elif to_state in MOVES[self.state]:
            assert isinstance(result, SessionRecord)
            self.state = to_state
            if to_state in ENDED:
                self.holder = None
        else:
            assert isinstance(result, IllegalMove)

    @invariant()
    def stored_as_modelled(self) -> None:
        record = self.runner.run(self.store.get(self.record.id, "acme"))
        assert record.state is self.state
        assert record.token == max(self.given, default=0)
        if self.given:
            assert record.gateway == self.given[record.token]


def test_no_order_of_events_gives_two_holders_or_an_illegal_move(valkey: EmbeddedValkey) -> None:
    LeaseAndState.url = valkey.url
    run_state_machine_as_test(
        LeaseAndState,
        settings=settings(
            max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
