"""The embedded Valkey's life, and what the store does while Redis is away."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from liveact_services.errors import ServiceError
from liveact_services.sessions import (
    AvatarStore,
    Database,
    EmbeddedValkey,
    EmbeddedValkeyError,
    Leases,
    SessionStore,
)
from session_fixtures import (
    READY,
    admitted,
    fails,
    make_record,
)

pytest_plugins = ["session_fixtures"]


async def test_a_store_that_is_away_says_so_and_comes_back(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path).start()
    database = Database.connect(server.url, timeout_s=0.4)
    store, leases = SessionStore(database), Leases(database)
    await store.ping()
    record = await admitted(store)
    process = psutil.Process(int((tmp_path / "valkey.pid").read_text()))

    process.suspend()
    error = await fails(store.get(record.id, "acme"), "STORE_UNAVAILABLE")
    assert error.retry_after_s == 1.0
    assert "127.0.0.1" not in error.message
    process.resume()
    assert (await store.get(record.id, "acme")).id == record.id

    server.stop()
    for call in (
        store.ping(), store.list("acme"), store.admit(make_record()), store.move(record.id, READY), store.sweep(),
        store.touch(record.id, 1, block=1), leases.acquire(record.id, "g", 1000), AvatarStore(database).list("acme"),
    ):  # fmt: skip
        await fails(call, "STORE_UNAVAILABLE")
    await database.aclose()


async def test_a_valkey_that_dies_is_started_again_with_its_data(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as server:
        database = Database.connect(server.url)
        store = SessionStore(database)
        record = await admitted(store)
        await asyncio.sleep(2.1)
        os.kill(int((tmp_path / "valkey.pid").read_text()), signal.SIGKILL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                assert (await store.get(record.id, "acme")).id == record.id
                break
            except ServiceError:
                await asyncio.sleep(0.05)
        else:
            pytest.fail("Valkey did not come back")
        await database.aclose()


PARENT = """
import sys, time
from pathlib import Path
from liveact_services.sessions import EmbeddedValkey
print(EmbeddedValkey(Path(sys.argv[1])).start().url, flush=True)
time.sleep(60)
"""


async def test_a_restart_fails_no_more_callers_than_noticed_it(tmp_path: Path) -> None:
    """Every connection that rested in the pool is dead afterwards, and none may cost a caller that comes later."""
    with EmbeddedValkey(tmp_path) as valkey:
        database = Database.connect(valkey.url)
        await asyncio.gather(*(database.call(database.client.set(f"key{n}", n)) for n in range(8)))
        await asyncio.sleep(2.1)  # the guard gives up on a server that dies as soon as it has started
        os.kill(int((tmp_path / "valkey.pid").read_text()), signal.SIGKILL)
        async with asyncio.timeout(20):
            while True:
                try:
                    await database.ping()
                    break
                except ServiceError:
                    await asyncio.sleep(0.1)
        for _ in range(12):
            await asyncio.gather(*(database.ping() for _ in range(8)))
        await database.aclose()


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    """Another process with an embedded Valkey in a folder with a space in its name."""
    data_dir = tmp_path / "data of mine"
    with subprocess.Popen([sys.executable, "-c", PARENT, str(data_dir)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip(), data_dir
        process.kill()


def gone(pid: int, within_s: float) -> bool:
    try:
        psutil.Process(pid).wait(within_s)
    except psutil.NoSuchProcess:
        pass
    except psutil.TimeoutExpired:
        return False
    return True


def test_valkey_ends_with_a_killed_parent_and_keeps_its_data(parent: tuple[subprocess.Popen[str], str, Path]) -> None:
    process, url, data_dir = parent
    with redis.Redis.from_url(url) as client:
        client.set("kept", "1")
    pid = int((data_dir / "valkey.pid").read_text())
    assert os.getpgid(pid) not in (os.getpgrp(), os.getpgid(process.pid)), "a Ctrl-C would reach it"
    process.kill()
    # Started at once: it waits for the other's guard to finish.
    with EmbeddedValkey(data_dir) as server, redis.Redis.from_url(server.url) as client:
        assert gone(pid, 0)
        assert client.get("kept") == b"1"


def test_a_valkey_left_behind_is_stopped_by_the_next(parent: tuple[subprocess.Popen[str], str, Path]) -> None:
    process, url, data_dir = parent
    with redis.Redis.from_url(url) as client:
        client.set("kept", "1")
    orphan = int((data_dir / "valkey.pid").read_text())
    guard = psutil.Process(orphan).parent()
    assert guard is not None
    assert guard.parent() == psutil.Process(process.pid)
    guard.kill()
    process.kill()
    process.wait()
    assert not gone(orphan, 0.3)
    with EmbeddedValkey(data_dir) as server:
        assert gone(orphan, 0)
        with redis.Redis.from_url(server.url) as client:
            assert client.get("kept") == b"1"
    assert not (data_dir / "valkey.pid").exists()


def test_a_stale_pid_file_harms_nobody(tmp_path: Path) -> None:
    bystander = subprocess.Popen(["sleep", "60"], cwd=tmp_path)
    try:
        (tmp_path / "valkey.pid").write_text(str(bystander.pid))
        with EmbeddedValkey(tmp_path):
            assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_data_folder_serves_one_at_a_time(valkey: EmbeddedValkey) -> None:
    with pytest.raises(EmbeddedValkeyError, match="in use by another running service"):
        EmbeddedValkey(valkey.data_dir).start()
    with redis.Redis.from_url(valkey.url) as client:
        assert client.ping()


def test_damaged_data_is_named_not_overwritten(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path):
        pass
    (damaged,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
    damaged.write_bytes(b"*3\r\n$3\r\nSET\r\nnonsense that is no command\r\n" * 3)
    with pytest.raises(EmbeddedValkeyError, match="Bad file format"):
        EmbeddedValkey(tmp_path).start()
    assert damaged.read_bytes().startswith(b"*3")


def test_its_port_is_closed_to_who_lacks_the_password(valkey: EmbeddedValkey) -> None:
    with (
        redis.Redis(port=urlsplit(valkey.url).port or 0, retry=Retry(NoBackoff(), 0)) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.get("x")
    with pytest.raises(EmbeddedValkeyError, match="not started"):
        _ = EmbeddedValkey(valkey.data_dir).url
