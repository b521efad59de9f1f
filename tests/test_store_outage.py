"""The store dies, hangs, is slow, is full or forgets: streams go on, nothing new begins, and afterwards the records are right."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from redis.exceptions import ResponseError

from liveact_services.conductor.stages import Pacing
from liveact_services.config import SessionLimits
from liveact_services.errors import ServiceError
from liveact_services.gateway import ledger
from liveact_services.sessions import Database, SessionState, SessionStore, Sweeper
from liveact_services.sessions.database import CALL_S as REAL_CALL_S
from liveact_services.sessions.keys import SessionKeys
from liveact_services.sessions.outage import RETRY_S
from session_fixtures import fails, make_record
from stage_fixtures import FPS, ScriptedStages
from store_fixtures import Failing
from test_live_session import Host, Stream

pytest_plugins = ["store_fixtures"]

DETACHED, STREAMING, CLOSED, FAILED = (
    SessionState.DETACHED, SessionState.STREAMING, SessionState.CLOSED, SessionState.FAILED,
)  # fmt: skip
CALL_S = 0.5
LEASE_MS = 1000
OUTAGE_S = 2.0
"""Longer than a lease lasts."""


@pytest.fixture(autouse=True)
def _short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "LEASE_MS", LEASE_MS)
    monkeypatch.setattr(ledger, "PERIOD_S", 0.3)


@pytest_asyncio.fixture
async def database(failing: Failing) -> AsyncIterator[Database]:
    database = Database.connect(failing.url, timeout_s=CALL_S)
    yield database
    await database.aclose()


@pytest.fixture
def keys(database: Database) -> SessionKeys:
    return SessionKeys(database)


@pytest_asyncio.fixture
async def host(database: Database) -> AsyncIterator[Host]:
    # Stages are scripted here: no model is asked for.
    host = Host(database, None)  # type: ignore[arg-type]
    yield host
    for live in host.live:
        await live.close()


async def streaming(host: Host, **limits: float) -> Stream:
    """A session of which frames come at their time."""
    stream = await Stream.open(await host.begin(ScriptedStages(0.02, 0.001), pacing=Pacing.REALTIME, **limits)).ready()
    await stream.until(lambda: bool(stream.frames))
    await host.reaches(stream.live, STREAMING)
    return stream


def whole(stream: Stream) -> bool:
    return [frame.index for frame in stream.frames] == list(range(len(stream.frames)))


async def says_no(host: Host) -> float:
    """A new session is refused; gives the seconds that took."""
    began = time.monotonic()
    with pytest.raises(ServiceError) as refused:
        await host.begin(ScriptedStages())
    assert refused.value.reason == "STORE_UNAVAILABLE"
    assert refused.value.retry_after_s == 1.0
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("how", "empty", "named"),
    [
        pytest.param("stopped", False, "does not answer", marks=pytest.mark.slow),
        pytest.param("stopped", True, "does not answer", marks=pytest.mark.slow),
        ("hung", False, "does not answer"),
        pytest.param("slow", False, "does not answer", marks=pytest.mark.slow),
        pytest.param("memory", False, "maxmemory", marks=pytest.mark.slow),
        ("disk", False, "AOF file: No space left on device"),
    ],
    ids=["stopped", "stopped and empty", "hung", "slow", "memory full", "disk full"],
)
async def test_streams_go_on_and_the_records_are_right_afterwards(
    host: Host,
    database: Database,
    keys: SessionKeys,
    failing: Failing,
    caplog: pytest.LogCaptureFixture,
    how: str,
    empty: bool,
    named: str,
) -> None:
    caplog.set_level(logging.WARNING, "liveact_services.sessions.outage")
    stays, ends = await streaming(host), await streaming(host)
    first = {stream: await host.record(stream.live) for stream in (stays, ends)}
    await failing.fail(how)
    # Until it is noticed a call takes its time; the reports of both sessions do notice it.
    await asyncio.sleep(2 * CALL_S)
    before, began = len(stays.frames), time.monotonic()
    waits = []
    while time.monotonic() - began < OUTAGE_S:
        waits.append(await says_no(host))
        await asyncio.sleep(0.2)
    assert max(waits) < 2 * CALL_S
    assert len(stays.frames) - before > 0.6 * OUTAGE_S * FPS
    if how in ("memory", "disk"):
        # What is there can still be read.
        assert (await host.record(stays.live)).state is STREAMING
    closing = time.monotonic()
    await ends.live.close()
    assert time.monotonic() - closing < 3 * CALL_S
    await failing.recover(how, empty=empty)

    record = await host.reaches(stays.live, STREAMING)
    async with asyncio.timeout(8):
        while record.frame <= before or await database.client.get(keys.lease(record.id)) != str(record.token).encode():
            await asyncio.sleep(0.05)
            record = await host.record(stays.live)
    # Nobody else had it: the owner is the same, the lease is held, and another who asks for it is told so.
    assert record.gateway == "gateway-1"
    assert record.token >= first[stays].token
    await fails(host.leases.acquire(record.id, "gateway-2", 1000), "SESSION_BUSY")
    rest = host.live[0]._limits.idle_timeout_s + LEASE_MS / 1000
    assert record.expire_time == pytest.approx(time.time() + rest, abs=2.0)
    if not empty:
        ended = await host.reaches(ends.live, CLOSED)
        assert ended.frame == len(ends.frames)
    # Whoever was refused lives nowhere, whatever the store did of it; places and streams are those of who goes on.
    async with asyncio.timeout(5):
        while {r.state for r in await host.store.list("t")} - {STREAMING, CLOSED, FAILED}:
            await asyncio.sleep(0.05)
    assert [r.id for r in await host.store.list("t") if r.state is STREAMING] == [record.id]
    for place in (keys.places_of_tenant("t"), keys.streams_of_tenant("t")):
        assert await database.client.zrange(place, 0, -1) == [record.id.encode()]
    # Each frame counts once.
    await stays.lose()
    record = await host.reaches(stays.live, DETACHED)
    made = record.frame + (0 if empty else len(ends.frames))
    counted = int(await database.client.hget(keys.usage_of_tenant("t"), "ms") or 0)
    assert counted <= made * 1000 // FPS
    if not empty:
        assert counted == made * 1000 // FPS
    assert whole(stays)
    assert whole(ends)
    # The log was told once that it began and why, and once that it was over.
    told = [entry.getMessage() for entry in caplog.records if entry.name.endswith("outage")]
    assert [named in line for line in told] == [True, False], told
    assert told[1].startswith(("the session store answers again", "the session store writes again"))


async def test_a_valkey_that_is_killed_comes_back_by_itself_and_nobody_notices(host: Host, failing: Failing) -> None:
    stream = await streaming(host)
    await asyncio.sleep(1.0)
    await failing.die()
    before = len(stream.frames)
    await stream.until(lambda: len(stream.frames) > before + 2 * FPS)
    async with asyncio.timeout(5):
        while (await host.reaches(stream.live, STREAMING)).frame <= before:
            await asyncio.sleep(0.05)
    assert whole(stream)


async def test_many_calls_to_a_store_that_hangs_wait_together_and_later_ones_not_at_all(
    failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    # In earnest's time: a hundred calls at once are a burst for a small machine.
    database = Database.connect(failing.url)
    store = SessionStore(database)
    await store.ping()
    await failing.fail("hung")
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, "liveact_services.sessions.outage"):
        answers = await asyncio.gather(*(store.list(f"tenant {n}") for n in range(300)), return_exceptions=True)
        assert {getattr(answer, "reason", answer) for answer in answers} == {"STORE_UNAVAILABLE"}
        assert time.monotonic() - began < 3 * REAL_CALL_S
        began = time.monotonic()
        for _ in range(50):
            await fails(store.list("t"), "STORE_UNAVAILABLE")
        assert time.monotonic() - began < REAL_CALL_S, "one of them may be the one that tries"
        await failing.recover("hung")
        await asyncio.sleep(RETRY_S)
        async with asyncio.timeout(5):
            while True:
                try:
                    await store.ping()
                    break
                except ServiceError:
                    await asyncio.sleep(0.05)
        await asyncio.gather(*(store.list(f"tenant {n}") for n in range(100)))
    await database.aclose()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2, told
    assert "does not answer" in told[0]
    assert "answers again" in told[1]


async def test_a_slow_answer_among_others_does_not_close_the_store_to_everybody(
    database: Database, failing: Failing
) -> None:
    store = SessionStore(database)
    await store.ping()
    slow = asyncio.create_task(database.call(database.client.blpop(["nothing comes here"], timeout=5)))
    for _ in range(12):
        await store.ping()
        await asyncio.sleep(0.05)
    await fails(slow, "STORE_UNAVAILABLE")
    await store.ping()


@pytest.mark.parametrize(
    ("said", "passes"),
    [
        ("MISCONF Errors writing to the AOF file: No space left on device", True),
        ("NOREPLICAS Not enough good replicas to write.", True),
        # As Redis 6.2 quotes what a script was told.
        ("ERR Error running script (call to f_1): @user_script:27: -OOM command not allowed when used memory >", True),
        (
            "ERR Error running script (call to f_1): @user_script:27: -READONLY You can't write against a read only",
            True,
        ),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", False),
        ("ERR Error running script (call to f_1): @user_script:3: user_script:3: attempt to compare nil", False),
        ("BUSYGROUP Consumer Group name already exists", False),
    ],
)
async def test_a_refusal_that_passes_is_told_from_a_mistake_of_ours(
    database: Database, said: str, passes: bool
) -> None:
    """Answers that this Valkey would not give, or not in these words."""

    async def answer() -> None:
        raise ResponseError(said)

    with pytest.raises(ServiceError if passes else ResponseError):
        await database.call(answer(), "touch")


@pytest.mark.slow
async def test_who_waits_to_be_resumed_waits_until_the_store_is_back_and_no_sweep_is_faster(
    host: Host, database: Database, failing: Failing
) -> None:
    sweeping = asyncio.create_task(Sweeper(host.store, period_s=0.1, grace_s=2.0).run())
    stream = await streaming(host, detached_timeout_s=1.0)
    await stream.lose()
    live = stream.live
    stored = await host.reaches(live, DETACHED)
    await failing.fail("stopped")
    await asyncio.sleep(stored.expire_time - time.time() + 1.0)
    assert not live.over
    await failing.recover("stopped")
    again = Stream(live, live.resume(len(stream.frames)))
    async with asyncio.timeout(5):
        while (await host.reaches(live, STREAMING)).expire_time < time.time():
            await asyncio.sleep(0.02)
    await again.lose()
    # Once the store is there, its time runs out as ever.
    await host.reaches(live, SessionState.EXPIRED)
    assert not sweeping.done()
    sweeping.cancel()


async def test_an_admission_whose_answer_was_lost_takes_no_place_afterwards(
    host: Host, database: Database, keys: SessionKeys, failing: Failing
) -> None:
    # The script is there already: it runs, and only its answer is late.
    await host.store.admit(make_record())
    await failing.fail("slow")
    record = make_record(tenant="t", expire_time=time.time() + 60)
    ghost = ledger.Ledger(record, host.store, host.leases, "gateway-1", SessionLimits())
    await fails(ghost.admit(), "STORE_UNAVAILABLE")
    await failing.recover("slow")
    async with asyncio.timeout(10):
        while True:
            try:
                if (await host.store.get(record.id, "t")).state is FAILED:
                    break
            except ServiceError:
                pass
            await asyncio.sleep(0.05)
    assert not await database.client.exists(keys.places_of_tenant("t"), keys.streams_of_tenant("t"))
    assert ghost._writer is not None
    await asyncio.wait_for(ghost._writer, 5)
