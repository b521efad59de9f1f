"""Sessions leave nodes and clusters that are about to go: `python -m liveact_services.cluster.watch` runs beside the service.

A node that is cordoned, tainted for deletion or reclaimed has its worker pods evicted, as far as disruption budgets allow: their
preStop has sessions move first (`cluster/leave.py`), and KubeRay starts others elsewhere. A RayCluster in whose place another
serves has its sessions follow (`cluster/succession.py`). What is to be done is read anew from the API every time, so that a
watcher that was away misses nothing.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from liveact_services.cluster.api import ClusterError, Kube
from liveact_services.cluster.objects import Pod
from liveact_services.cluster.succession import Succession
from liveact_services.config import load_config

log = logging.getLogger(__name__)
EVERY_S = 10
"""At the latest so often: an eviction that a budget refused is tried again, and a pod may have come since."""
AFTER_ERROR_S = 5.0


@dataclass
class Watcher:
    """Evicts from nodes that go."""

    kube: Kube
    taints: Sequence[str] = ()
    """More taints, or how they begin where they end in a slash, that say so."""
    told: Callable[[str], None] = log.info
    succession: Succession | None = None
    """Whether sessions follow their service to another cluster, too."""
    alive: Path | None = None
    """A file that is as new as the last look: whoever finds it old has found a watcher that hangs."""
    _known: dict[str, str] = field(default_factory=dict)
    """Nodes that go, and why, as said last."""

    def look(self, only: str | None = None) -> list[Pod]:
        """Evict the workers of every node that goes; gives those evicted now. Heads go with whoever drains their node.

        `only`: of no other node.
        """
        nodes = [node for node in self.kube.nodes() if only in (None, node.name)]
        going = {node.name: why for node in nodes if (why := node.going(self.taints))}
        here = self.kube.workers(going)
        self._tell({name: why for name, why in going.items() if any(pod.node == name for pod in here)})
        evicted = []
        for pod in here:
            if pod.leaving:
                continue
            if self.kube.evict(pod):
                evicted.append(pod)
                self.told(f"{pod.name} leaves node {pod.node}")
            else:
                self.told(f"{pod.name} stays for now on node {pod.node}: a disruption budget says so")
        return evicted

    def run(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Look whenever a node changes, until it is stopped: which is asked every `EVERY_S`."""
        while not stopped():
            if self.alive is not None:
                self.alive.touch()
            try:
                if self.succession is not None:
                    self.succession.look()
                self.look()
                for _ in self.kube.node_events(EVERY_S):
                    if stopped():
                        return
                    self.look()
            except ClusterError as error:
                self.told(f"{error}; asking again in {AFTER_ERROR_S:g} s")
                time.sleep(AFTER_ERROR_S)

    def _tell(self, going: dict[str, str]) -> None:
        for name, why in going.items():
            if self._known.get(name) != why:
                self.told(f"node {name} is {why}: its workers leave")
        self._known = going


def main() -> None:
    """Watches until it is stopped."""
    parser = argparse.ArgumentParser(description="Have sessions leave nodes that are about to go.")
    parser.add_argument("--namespace", metavar="NAME", help="of the service; the pod's own by default")
    parser.add_argument("--taint", action="append", default=[], metavar="KEY", help="another taint of nodes that go")
    parser.add_argument("--alive", type=Path, metavar="FILE", help="touched at every look, for a liveness probe")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    kube, redis_url = Kube.connect(asked.namespace), load_config().redis_url
    log.info("watching the nodes of Ray pods in namespace %s", kube.namespace)
    succession = None if redis_url is None else Succession(kube, redis_url)
    if succession is None:
        log.warning("no redis_url: sessions stay at a cluster in whose place another serves until it is deleted")
    Watcher(kube, asked.taint, succession=succession, alive=asked.alive).run()


if __name__ == "__main__":
    main()
