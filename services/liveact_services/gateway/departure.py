"""Sessions leave a cluster in whose place another serves: their clients are told, and resume where new connections lead.

No more go than the other cluster has said it has room for: it may be small, and grow as they come. New connections may lead here
all the same, when the address in front has not changed yet: then the session goes on here as after any break, and is told again
later, as is one whose client keeps its connection.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from liveact_services.errors import ServiceError, fail
from liveact_services.sessions.clusters import Clusters

if TYPE_CHECKING:
    from liveact_services.gateway.live_session import LiveSession

LOOK_S = 2.0
AT_A_TIME = 4
"""Sessions of one Gateway that go together: each has the other cluster make a block or two again."""
AGAIN_S = 30.0
"""After a client that came back here."""
TOLD = "this cluster is being replaced: resume over a new connection"

log = logging.getLogger(__name__)


class Departure:
    """Has this Gateway's sessions leave for as long as their cluster is to be left; tells of its room otherwise."""

    def __init__(
        self,
        clusters: Clusters,
        cluster: str,
        live: Callable[[], Collection[LiveSession]],
        room: Callable[[], Mapping[str, float]],
    ) -> None:
        """`room`: how many small sessions each pool has room for."""
        self._clusters, self._cluster, self._live, self._room = clusters, cluster, live, room
        self._told: dict[str, float] = {}
        """When each session that is still here was told last."""
        self._leaving = False

    async def run(self) -> None:
        """Looks for ever; in a cluster without a name nobody can ask for it."""
        while self._cluster:
            # While Redis is away sessions are safest where they are.
            with suppress(ServiceError):
                await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Have some go, or tell of the room. Raises STORE_UNAVAILABLE."""
        leaving = await self._clusters.leaving(self._cluster)
        if leaving != self._leaving:
            self._leaving = leaving
            log.info("cluster %s is %s", self._cluster, "being left" if leaving else "not left any more")
        if not leaving:
            await self._clusters.offer(self._room())
            return
        going = await self._with_places(self._due())
        self._told |= dict.fromkeys((one.spec.session for one in going), time.monotonic())
        await asyncio.gather(*(one.depart(fail("SHUTTING_DOWN", TOLD, retry_after_s=0.0)) for one in going))

    def _due(self) -> list[LiveSession]:
        live = {one.spec.session: one for one in self._live()}
        self._told = {session: at for session, at in self._told.items() if session in live}
        latest = time.monotonic() - AGAIN_S
        return [one for name, one in live.items() if one.moveable and self._told.get(name, latest) <= latest][
            :AT_A_TIME
        ]

    async def _with_places(self, due: list[LiveSession]) -> list[LiveSession]:
        """Those for which there is room in their pools elsewhere."""
        going: list[LiveSession] = []
        for pool in dict.fromkeys(one.spec.pool for one in due):
            of_pool = [one for one in due if one.spec.pool == pool]
            going += of_pool[: await self._clusters.take(pool, len(of_pool))]
        return going
