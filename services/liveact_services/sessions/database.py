"""The connection to Redis: key names, scripts registered once, and the one place where its failures are translated."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import cache
from importlib import resources
from typing import Any

import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript

from liveact_services.sessions import address
from liveact_services.sessions.outage import Outage, Unanswered, refusing

Clock = Callable[[], float]
"""Seconds since the epoch."""

CALL_S = 2.0
"""What a call takes at most, connecting included."""
MAX_CALLS = 32
"""Calls under way at once; others wait, within their time. Below the 100 connections that the client's pool opens."""

_AWAY = (exceptions.ConnectionError, exceptions.TimeoutError, OSError)
_REFUSALS = (exceptions.ReadOnlyError, exceptions.OutOfMemoryError, exceptions.MasterDownError)
_REFUSAL = re.compile(r"(?:^|-)(?:OOM|MISCONF|READONLY|NOREPLICAS|MASTERDOWN|BUSY) ")
"""What passes once Redis is relieved or has failed over; from inside a script, Redis 6.2 quotes it. All else is a mistake of
ours and stays what it is."""

_USES = "-- uses "


class Database:
    """One Redis (6.2 or newer), seen through a key prefix."""

    def __init__(self, client: redis.asyncio.Redis, prefix: str = "liveact:", timeout_s: float = CALL_S) -> None:
        self.client = client
        self.prefix = prefix
        self._timeout_s = timeout_s
        self._scripts: dict[str, AsyncScript] = {}
        self._outage = Outage()
        self._under_way = asyncio.Semaphore(MAX_CALLS)

    @classmethod
    def connect(cls, url: str, *, prefix: str = "liveact:", timeout_s: float = CALL_S) -> Database:
        """Connects on first use. A call takes `timeout_s` at most, whatever the server does.

        It is tried once: a script whose reply was lost may have run.
        """
        client = address.connect(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
        )
        return cls(client, prefix, timeout_s)

    def key(self, *parts: str) -> str:
        """A key under the prefix: its parts with colons between."""
        return self.prefix + ":".join(parts)

    @property
    def away(self) -> bool:
        """Whether Redis does not answer, or takes no writes, as far as calls have found out."""
        return self._outage.away

    async def ping(self) -> None:
        """Raises STORE_UNAVAILABLE."""
        await self.call(self.client.ping(), "ping")

    async def call(self, command: Awaitable[Any], script: str = "") -> Any:
        """Awaits a command of the client, which runs that script, if any.

        Raises STORE_UNAVAILABLE where Redis cannot be reached, does not answer in time, or cannot write.
        """
        began = time.monotonic()
        try:
            with self._outage.attempt():
                answer = await self._in_time(command)
                self._outage.answered()
        except _AWAY as error:
            if self._outage.unanswered(began, error):
                # What broke this connection broke those that rest in the pool, and each would fail one caller more.
                with suppress(*_AWAY):
                    await self.client.connection_pool.disconnect(inuse_connections=False)
            # The cause may name hosts and users: it stays in the chain and the log.
            raise Unanswered() from error
        except exceptions.ResponseError as error:
            self._outage.answered()
            if not (isinstance(error, _REFUSALS) or _REFUSAL.search(str(error))):
                raise
            self._outage.refused(script, str(error))
            raise refusing() from error
        finally:
            # One that was not awaited would complain of it.
            if close := getattr(command, "close", None):
                close()
        self._outage.written(script)
        return answer

    async def _in_time(self, command: Awaitable[Any]) -> Any:
        # Connecting is several exchanges, each of which may take the socket's time.
        try:
            async with asyncio.timeout(self._timeout_s), self._under_way:
                return await command
        except TimeoutError:
            raise TimeoutError(f"nothing came within {self._timeout_s:g} s") from None

    async def run(
        self, script: str, keys: Sequence[str], args: Sequence[str | bytes | int | float]
    ) -> tuple[str, list[Any]]:
        """Runs `scripts/{script}.lua`, atomic. Returns the outcome's name and what came with it."""
        if script not in self._scripts:
            self._scripts[script] = self.client.register_script(_source(script))
        outcome, *rest = await self.call(self._scripts[script](keys=list(keys), args=list(args)), script)
        return outcome.decode(), rest

    async def aclose(self) -> None:
        await self.client.aclose()


@cache
def _source(script: str) -> str:
    """The script, with what its first line says it uses in front: Redis 6.2 has no libraries."""
    text = resources.files(__package__).joinpath("scripts", f"{script}.lua").read_text(encoding="utf-8")
    first = text.partition("\n")[0]
    return _source(first.removeprefix(_USES)) + text if first.startswith(_USES) else text
