"""Nodes and the replicas on them: what starts when, what is lost, and what it costs."""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Hardware:
    """What replicas run on. Times in seconds; means of exponential laws where it says mean."""

    gpus_per_replica: int = 2
    replicas_per_node: int = 4
    node_start_s: float = 150.0
    """Least time until a node that is asked for is there, and `node_start_more_s` of mean on top."""
    node_start_more_s: float = 30.0
    replica_start_s: float = 60.0
    """Least time a replica takes to load its weights, and `replica_start_more_s` of mean on top."""
    replica_start_more_s: float = 10.0
    loss_mean_s: float = 60 * 86_400.0
    """How long a node lives until it is lost without notice, in the mean."""
    spot_share: float = 0.3
    """Of the nodes, how many can be reclaimed."""
    reclaim_mean_s: float = 2 * 86_400.0
    notice_s: float = 120.0
    """Between the word that a node is reclaimed and its end."""


@dataclass(eq=False)
class Node:
    """A machine, asked for; `replicas` are the numbers of those on it."""

    asked_s: float
    ready_s: float
    ends_s: float
    """When it is lost or, where `spot`, reclaimed; it may be given back before."""
    spot: bool
    replicas: set[int] = field(default_factory=set)
    leaving: bool = False
    """Whether its end has been announced."""
    gone: bool = False


class Machines:
    """Puts replicas on nodes, the node with room that was asked for first; a node without replicas is given back."""

    def __init__(self, hardware: Hardware, seed: int) -> None:
        self.hardware = hardware
        self._random = random.Random(seed)
        self._roomy: deque[Node] = deque()
        self.nodes = 0

    def start(self, replica: int, now: float) -> tuple[Node, float, bool]:
        """The replica's node, when the replica serves, and whether the node is new."""
        while self._roomy and not self._takes(self._roomy[0]):
            self._roomy.popleft()
        new = not self._roomy
        node = self._node(now) if new else self._roomy[0]
        if new:
            self._roomy.append(node)
        node.replicas.add(replica)
        load = self.hardware.replica_start_s + self._more(self.hardware.replica_start_more_s)
        return node, max(now, node.ready_s) + load, new

    def stop(self, replica: int, node: Node) -> None:
        """The replica is not on its node any more."""
        was_full = self._full(node)
        node.replicas.discard(replica)
        if node.gone:
            return
        if not node.replicas:
            self.lose(node)
        elif was_full and not node.leaving:
            self._roomy.append(node)

    def lose(self, node: Node) -> None:
        """The node is there no more: reclaimed, broken or given back."""
        if not node.gone:
            node.gone = True
            self.nodes -= 1

    def _node(self, now: float) -> Node:
        hardware = self.hardware
        self.nodes += 1
        ready = now + hardware.node_start_s + self._more(hardware.node_start_more_s)
        spot = self._random.random() < hardware.spot_share
        lost = ready + self._more(hardware.loss_mean_s)
        reclaimed = ready + self._more(hardware.reclaim_mean_s) if spot else math.inf
        return Node(now, ready, min(lost, reclaimed), spot and reclaimed < lost)

    def _takes(self, node: Node) -> bool:
        return not (node.gone or node.leaving or self._full(node))

    def _full(self, node: Node) -> bool:
        return len(node.replicas) >= self.hardware.replicas_per_node

    def _more(self, mean: float) -> float:
        return self._random.expovariate(1 / mean) if mean else 0.0
