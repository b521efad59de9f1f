"""Sessions leave a cluster in whose place another serves: their clients are told, and resume where new connections lead.

Where that is this cluster all the same, since the address in front has not changed yet or a client keeps its connection, the
session goes on here as after any break, and is told again later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
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
    """Has this Gateway's sessions leave for as long as their cluster is to be left."""

    def __init__(self, clusters: Clusters, cluster: str, live: Callable[[], Collection[LiveSession]]) -> None:
        self._clusters, self._cluster, self._live = clusters, cluster, live
        self._sent: dict[str, float] = {}
        """When each session that is still here was told last."""
        self.on = False
        """Whether the cluster is being left."""

    async def run(self) -> None:
        """Looks for ever; in a cluster without a name nobody can ask for it."""
        while self._cluster:
            await self._look()
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        try:
            leaving = await self._clusters.leaving(self._cluster)
        except ServiceError:
            # Sessions are safest where they are.
            return
        if leaving != self.on:
            self.on = leaving
            log.info("cluster %s is %s", self._cluster, "being left" if leaving else "not left any more")
        if not leaving:
            return
        live = {one.spec.session: one for one in self._live()}
        self._sent = {session: at for session, at in self._sent.items() if session in live}
        now = time.monotonic()
        due = [one for name, one in live.items() if one.moveable and now - self._sent.get(name, -AGAIN_S) >= AGAIN_S]
        going = due[:AT_A_TIME]
        self._sent |= dict.fromkeys((one.spec.session for one in going), now)
        await asyncio.gather(*(one.depart(fail("SHUTTING_DOWN", TOLD, retry_after_s=0.0)) for one in going))
