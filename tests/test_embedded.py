"""The embedded Valkey's life, and what the store does while Redis is away."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
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
from liveact_services.sessions.embedded import damaged_data
from liveact_services.sessions.outage import RETRY_S
from session_fixtures import (
    READY,
    admitted,
    fails,
    make_record,
)

pytest_plugins = ["session_fixtures", "store_fixtures"]


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
    await asyncio.sleep(RETRY_S)
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


# ---- damaged data and full disks


KEYS = 200


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of a Valkey that was killed: half of the keys in a base file, half in the commands that follow."""
    folder = tmp_path_factory.mktemp("written")
    with EmbeddedValkey(folder) as server, redis.Redis.from_url(server.url) as client:
        client.mset({f"key{n}": "v" * 50 for n in range(KEYS // 2)})
        client.bgrewriteaof()
        while client.info("persistence")["aof_rewrites"] < 1 or client.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(0.02)
        for n in range(KEYS // 2, KEYS):
            client.set(f"key{n}", "v" * 50)
    return folder / "appendonlydir"


def overwrite(file: Path, at: int, data: bytes) -> None:
    content = bytearray(file.read_bytes())
    content[at : at + len(data)] = data
    file.write_bytes(content)


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


@pytest.mark.parametrize(
    ("name", "damage", "least", "most"),
    [
        ("*.incr.aof", lambda f: cut(f, f.stat().st_size - 7), KEYS - 1, KEYS - 1),
        ("*.incr.aof", lambda f: overwrite(f, f.stat().st_size // 2, b"nonsense that is no command"), 140, 160),
        ("*.incr.aof", lambda f: overwrite(f, f.stat().st_size // 2, bytes(f.stat().st_size // 2)), 140, 160),
        ("*.incr.aof", lambda f: f.unlink(), 0, 0),
        ("*.base.*", lambda f: overwrite(f, f.stat().st_size // 2, b"\xff" * 40), 0, 0),
        ("*.base.*", lambda f: cut(f, f.stat().st_size // 2), 0, 0),
        ("*.manifest", lambda f: f.write_text("no manifest\n"), 0, 0),
    ],
    ids=["truncated", "garbage", "zeros", "no commands", "base damaged", "base truncated", "manifest"],
)
def test_damaged_data_are_kept_aside_and_what_can_be_read_of_them_is(
    tmp_path: Path, written: Path, caplog: pytest.LogCaptureFixture, name: str, damage: Any, least: int, most: int
) -> None:
    shutil.copytree(written, tmp_path / "appendonlydir")
    (file,) = (tmp_path / "appendonlydir").glob(name)
    damage(file)
    broken = {f.name: f.read_bytes() for f in (tmp_path / "appendonlydir").iterdir()}
    with caplog.at_level(logging.WARNING), EmbeddedValkey(tmp_path) as server:
        with redis.Redis.from_url(server.url) as client:
            left = {key.decode() for key in client.scan_iter()}
            assert least <= len(left) <= most
            # What is there is what was there at one moment, and it can be written.
            assert left == {f"key{n}" for n in range(len(left))}
            assert client.set("new", "1")
        kept = damaged_data(tmp_path)
        if most == KEYS - 1:
            assert kept == [], "a command whose end was not written any more was never acknowledged as kept"
            return
        assert {f.name: f.read_bytes() for f in kept[0].iterdir()} == broken
        assert len(kept) == 1
        assert str(kept[0]) in caplog.text
    log = (tmp_path / "valkey.log").read_text()
    assert "the data were damaged" in log
    assert kept[0].name in log
    # Started again, all is well.
    with EmbeddedValkey(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        assert client.get("new") == b"1"
        assert damaged_data(tmp_path) == kept


async def admitted_again_and_again(store: SessionStore) -> None:
    # A write is acknowledged before it is on the disk: the first ones may still succeed.
    for _ in range(1000):
        await store.admit(make_record())


async def test_a_full_disk_refuses_writes_outlives_a_restart_and_ends_with_room(small_disk: Path) -> None:
    data = small_disk / "valkey"
    with EmbeddedValkey(data) as server:
        database = Database.connect(server.url)
        store = SessionStore(database)
        record = await admitted(store)
        ballast = small_disk / "ballast"
        with suppress(OSError):
            ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free))
        with pytest.raises(ServiceError) as refused:
            await admitted_again_and_again(store)
        assert refused.value.reason == "STORE_UNAVAILABLE"
        assert "No space left on device" in str(refused.value.__cause__)
        assert (await store.get(record.id, "acme")).id == record.id
        os.kill(int((data / "valkey.pid").read_text()), signal.SIGKILL)
        await asyncio.sleep(3.0)
        ballast.unlink()
        async with asyncio.timeout(15):
            while True:
                try:
                    await store.admit(make_record())
                    break
                except ServiceError:
                    await asyncio.sleep(0.1)
        assert (await store.get(record.id, "acme")).id == record.id
        await database.aclose()


def test_a_start_on_a_full_disk_says_so(small_disk: Path) -> None:
    with suppress(OSError):
        (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    with pytest.raises(EmbeddedValkeyError, match=r"the disk of .* is full: 0 bytes are free, at least 1048576"):
        EmbeddedValkey(small_disk / "valkey").start()


def test_its_port_is_closed_to_who_lacks_the_password(valkey: EmbeddedValkey) -> None:
    with (
        redis.Redis(port=urlsplit(valkey.url).port or 0, retry=Retry(NoBackoff(), 0)) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.get("x")
    with pytest.raises(EmbeddedValkeyError, match="not started"):
        _ = EmbeddedValkey(valkey.data_dir).url
