"""Which Vaults there are, of every cluster that serves with the same Redis: where each is reached, and with what secret."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field

from liveact_services.sessions import Database
from liveact_services.sessions.database import Clock

LAPSE_S = 15.0
"""How long an entry stands that is not renewed."""


@dataclass(frozen=True)
class Address:
    """One Vault, as others reach it."""

    id: str
    target: str
    """host:port"""
    secret: str = field(repr=False)
    """Whoever may read the Redis may ask the Vault."""


class Registry:
    """Every method raises STORE_UNAVAILABLE when Redis is away."""

    def __init__(self, database: Database, clock: Clock = time.time) -> None:
        self._database, self._clock = database, clock
        self._key = database.key("vaults")
        """Sorted set of entries by when each lapses."""

    async def renew(self, address: Address) -> None:
        """Say that the Vault is there, for `LAPSE_S` from now, and forget those that do not say so any more."""
        now, client = self._clock(), self._database.client
        await self._database.call(client.zadd(self._key, {json.dumps(asdict(address)): now + LAPSE_S}))
        await self._database.call(client.zremrangebyscore(self._key, "-inf", now))

    async def others(self, me: str) -> list[Address]:
        """Every Vault but this one."""
        entries = await self._database.call(self._database.client.zrangebyscore(self._key, f"({self._clock()}", "+inf"))
        return [known for entry in entries if (known := Address(**json.loads(entry))).id != me]
