"""Which clusters are to be left, those in whose place another serves with the same Redis, and how much room there is where."""

from __future__ import annotations

from collections.abc import Mapping

from liveact_services.sessions.database import Database

STANDS_S = 7 * 24 * 3600
"""How long the word stands: longer than a cluster that was replaced does."""
OFFERED_S = 10
"""How long an offer stands that nobody renews."""
MOST = 1e6
"""Said in place of no limit at all."""


class Clusters:
    """Every method raises STORE_UNAVAILABLE when Redis is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def leave(self, cluster: str, on: bool = True) -> None:
        """Have the sessions of that cluster go on where new connections lead; off: have them stay."""
        key = self._key(cluster)
        client = self._database.client
        await self._database.call(client.set(key, "leaving", ex=STANDS_S) if on else client.delete(key))

    async def leaving(self, cluster: str) -> bool:
        """Whether that cluster's sessions are to go on elsewhere."""
        return bool(await self._database.call(self._database.client.exists(self._key(cluster))))

    async def offer(self, room: Mapping[str, float]) -> None:
        """Say how many small sessions each pool of a cluster that serves has room for, now and for `OFFERED_S`."""
        key, client = self._database.key("room"), self._database.client
        await self._database.call(client.hset(key, mapping={pool: min(value, MOST) for pool, value in room.items()}))
        await self._database.call(client.expire(key, OFFERED_S))

    async def take(self, pool: str, wanted: int) -> int:
        """Take up to so many of those places, for sessions that are to go there; how many there were."""
        _, (taken,) = await self._database.run("take_room", [self._database.key("room")], [pool, wanted])
        return int(taken)

    def _key(self, cluster: str) -> str:
        return self._database.key("cluster", cluster)
