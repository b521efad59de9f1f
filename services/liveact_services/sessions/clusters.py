"""Which clusters are to be left: those in whose place another serves, with the same Redis."""

from __future__ import annotations

from liveact_services.sessions.database import Database

STANDS_S = 7 * 24 * 3600
"""How long the word stands: longer than a cluster that was replaced does."""


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

    def _key(self, cluster: str) -> str:
        return self._database.key("cluster", cluster)
