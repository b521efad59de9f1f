"""The connection to Redis: key names, scripts registered once, and the one place where its failures are translated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from importlib import resources
from typing import Any

import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript

from liveact_services.errors import fail
from liveact_services.sessions import address

Clock = Callable[[], float]
"""Seconds since the epoch."""

_UNAVAILABLE = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    exceptions.MasterDownError,
    OSError,
)
"""What passes once Redis is back, failed over or relieved. All else is a mistake of ours and stays what it is."""

_USES = "-- uses "


class Database:
    """One Redis (6.2 or newer), seen through a key prefix."""

    def __init__(self, client: redis.asyncio.Redis, prefix: str = "liveact:") -> None:
        self.client = client
        self.prefix = prefix
        self._scripts: dict[str, AsyncScript] = {}

    @classmethod
    def connect(cls, url: str, *, prefix: str = "liveact:", timeout_s: float = 2.0) -> Database:
        """Connects on first use. A command takes `timeout_s` at most.

        It is tried once: a script whose reply was lost may have run.
        """
        client = address.connect(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
        )
        return cls(client, prefix)

    def key(self, *parts: str) -> str:
        """A key under the prefix: its parts with colons between."""
        return self.prefix + ":".join(parts)

    async def ping(self) -> None:
        """Raises STORE_UNAVAILABLE."""
        await self.call(self.client.ping())

    async def call(self, command: Awaitable[Any]) -> Any:
        """Awaits a command of the client. Raises STORE_UNAVAILABLE where Redis cannot be reached or cannot write."""
        try:
            return await command
        except _UNAVAILABLE as error:
            # What broke this connection broke those that rest in the pool, and each would fail one caller more.
            await self.client.connection_pool.disconnect(inuse_connections=False)
            # The cause may name hosts and users: it stays in the chain for the log.
            raise fail("STORE_UNAVAILABLE", "the session store does not answer; running streams go on") from error

    async def run(
        self, script: str, keys: Sequence[str], args: Sequence[str | bytes | int | float]
    ) -> tuple[str, list[Any]]:
        """Runs `scripts/{script}.lua`, atomic. Returns the outcome's name and what came with it."""
        if script not in self._scripts:
            self._scripts[script] = self.client.register_script(_source(script))
        outcome, *rest = await self.call(self._scripts[script](keys=list(keys), args=list(args)))
        return outcome.decode(), rest

    async def aclose(self) -> None:
        await self.client.aclose()


@cache
def _source(script: str) -> str:
    """The script, with what its first line says it uses in front: Redis 6.2 has no libraries."""
    text = resources.files(__package__).joinpath("scripts", f"{script}.lua").read_text(encoding="utf-8")
    first = text.partition("\n")[0]
    return _source(first.removeprefix(_USES)) + text if first.startswith(_USES) else text
