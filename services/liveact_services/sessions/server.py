"""What kind of Redis stands behind a URL: asked before a service is started with it, and by `liveact doctor`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from liveact_services.sessions.address import connect_blocking

TIMEOUT_S = 2.0
ACCEPTED = (
    "accepted are a standalone server, the primary that Sentinel watches, or a managed primary without cluster mode"
)

_log = logging.getLogger(__name__)


class UnsuitableRedis(RuntimeError):
    """The server can not hold sessions, whatever its state; the message says why and what is accepted."""


@dataclass(frozen=True)
class RedisServer:
    """A server, by its own account (INFO)."""

    info: Mapping[str, Any]

    @classmethod
    def at(cls, url: str) -> RedisServer:
        """Raises `redis.RedisError` where it does not answer, and ValueError for what is no URL."""
        with connect_blocking(
            url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
        ) as client:
            return cls(client.info())  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        """Product and version."""
        product = self.info.get("server_name", "redis")
        return f"{product} {self.info.get('valkey_version', self.info.get('redis_version', '?'))}"

    def require_suitable(self) -> None:
        """Raises `UnsuitableRedis` for a cluster: a script's keys belong to a session and to its tenant, hence to two slots."""
        if self.info.get("cluster_enabled") or self.info.get("redis_mode") == "cluster":
            raise UnsuitableRedis(f"redis_url names a Redis Cluster ({self.name}): {ACCEPTED}")

    @property
    def trouble(self) -> str:
        """Why it would write nothing now; "" where it would."""
        used, most = int(self.info.get("used_memory", 0)), int(self.info.get("maxmemory", 0))
        if self.info.get("role") == "slave":
            return "it is a replica, which takes no writes"
        if self.info.get("aof_last_write_status", "ok") != "ok":
            return "it cannot write its append-only file: its disk is full or broken"
        if self.info.get("rdb_last_bgsave_status", "ok") != "ok":
            return "its last snapshot failed, after which it may refuse writes: its disk is full or broken"
        if most and used >= most:
            return f"its memory is full: {used} bytes of maxmemory {most}"
        return ""

    @property
    def danger(self) -> str:
        """What it may do to sessions one day; "" for nothing."""
        policy = self.info.get("maxmemory_policy", "noeviction")
        if int(self.info.get("maxmemory", 0)) and policy != "noeviction":
            return f"maxmemory-policy {policy} drops records of sessions when memory is short"
        return ""


def require_suitable(url: str) -> None:
    """Raises `UnsuitableRedis`. A server that does not answer may be suitable: sessions then begin when it is there."""
    try:
        server = RedisServer.at(url)
    except redis.RedisError as error:
        _log.warning("the session store does not answer yet, so no session can begin: %s", type(error).__name__)
        return
    server.require_suitable()
    if said := server.trouble or server.danger:
        _log.warning("the session store (%s): %s", server.name, said)
