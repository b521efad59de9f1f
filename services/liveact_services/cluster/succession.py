"""Sessions follow their service from one RayCluster to the next: what serves stays, what has served is left.

KubeRay exchanges a service's cluster when the new one serves, and points the Service at it. Connections that are open lead to the
old one all the same, and so do their streams, until its Gateways tell them to go (`gateway/departure.py`): which they learn here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from liveact_services.errors import ServiceError

if TYPE_CHECKING:
    from liveact_services.cluster.api import Kube

log = logging.getLogger(__name__)


@dataclass
class Succession:
    """Says in the sessions' Redis which clusters are left."""

    kube: Kube
    redis_url: str
    told: Callable[[str], None] = log.info
    _said: dict[str, bool] = field(default_factory=dict)
    """Of each cluster what was said last."""

    def look(self) -> None:
        """Have the clusters left that served before the active one, and that one not. Raises `ClusterError`."""
        for service in self.kube.ray_services():
            there = self.kube.ray_clusters(service)
            if service.active not in there:
                continue
            left = {name: name != service.active for name in there if name != service.pending}
            news = {name: leaving for name, leaving in left.items() if self._said.get(name) != leaving}
            if news:
                asyncio.run(self._say(news))

    async def _say(self, news: dict[str, bool]) -> None:
        from liveact_services.sessions import Database
        from liveact_services.sessions.clusters import Clusters

        database = Database.connect(self.redis_url)
        clusters = Clusters(database)
        try:
            for name, leaving in news.items():
                await clusters.leave(name, leaving)
                self.told(
                    f"cluster {name} " + ("is left: its sessions go to the one that serves" if leaving else "serves")
                )
                self._said[name] = leaving
        except ServiceError as error:
            self.told(f"{error}; said again later")
        finally:
            await database.aclose()
