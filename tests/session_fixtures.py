"""A real Valkey for the tests of the session store, and records to put in it."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from liveact_services.errors import ServiceError
from liveact_services.sessions import (
    Database,
    EmbeddedValkey,
    Leases,
    SessionRecord,
    SessionState,
    SessionStore,
)
from liveact_services.sessions.names import new_id

ADMITTED, READY, STREAMING, DETACHED = (
    SessionState.ADMITTED,
    SessionState.READY,
    SessionState.STREAMING,
    SessionState.DETACHED,
)
CLOSED, EXPIRED, FAILED = SessionState.CLOSED, SessionState.EXPIRED, SessionState.FAILED
START = 1_700_000_000.25


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def make_record(**changes: object) -> SessionRecord:
    record = SessionRecord(
        id=new_id(), tenant="acme", state=ADMITTED, width=64, height=96, fps=20, sample_rate_hz=16000, channels=1,
        encoding=1, codec=2, pacing=1, idle_policy=1, seed=2**64 - 1, create_time=START, update_time=START,
        expire_time=START + 60,
    )  # fmt: skip
    return dataclasses.replace(record, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest_asyncio.fixture
async def database(valkey: EmbeddedValkey) -> AsyncIterator[Database]:
    database = Database.connect(valkey.url, prefix=f"test-{uuid.uuid4()}:")
    yield database
    await database.aclose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database: Database, clock: Clock) -> SessionStore:
    return SessionStore(database, clock=clock, retention_s=100)


@pytest.fixture
def leases(database: Database) -> Leases:
    return Leases(database)


async def admitted(store: SessionStore, state: SessionState = ADMITTED, **changes: object) -> SessionRecord:
    """A record brought to `state` by allowed moves."""
    record = make_record(**changes)
    await store.admit(record)
    path = {ADMITTED: [], READY: [READY], STREAMING: [READY, STREAMING], DETACHED: [READY, DETACHED]}
    for step in path.get(state, [state]):
        record = await store.move(record.id, step)
    return record


async def fails(awaitable: object, reason: str) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await awaitable  # type: ignore[misc]
    assert caught.value.reason == reason
    return caught.value
