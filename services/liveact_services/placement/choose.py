"""Where a call goes: the decision itself, over plain values. Serve's router and the simulator both ask here.

Two routers may see the fleet differently. What they decide is a hint: the replica admits for itself, and lets nobody act on a
session at an older attempt than it has seen (`fencing.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from liveact_services.placement.pins import NoReplica, Pin, ReplicaGone
from liveact_services.tenants.tenant import DEFAULT_POOL


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """A replica as somebody else last heard of it."""

    id: str
    started_at: float
    """Seconds since the epoch; unknown: infinite, which is youngest."""
    held: float = 0.0
    """What its sessions take: their count, or the sum of their utilisations."""
    capacity: float = math.inf
    """How much of that it takes."""
    draining: bool = False
    """Whether it keeps its sessions and takes no others."""
    pool: str = DEFAULT_POOL

    @property
    def age_order(self) -> tuple[float, str]:
        """Sorts the oldest first."""
        return self.started_at, self.id


def choose(pin: Pin, replicas: Iterable[ReplicaView], *, pool: str = DEFAULT_POOL, need: float = 1.0) -> list[str]:
    """The ids of the replicas to ask, in order.

    A pinned call goes to its replica, draining or not. A new session goes to the oldest replica of its pool with room for
    `need`: that leaves the newest empty, which Serve removes first. Those that look full come last, because the view may be
    late. Raises `ReplicaGone` and `NoReplica`: nothing waits here.
    """
    if pin.replica is not None:
        for replica in replicas:
            if replica.id == pin.replica:
                return [replica.id]
        raise ReplicaGone(f"replica {pin.replica} no longer serves")
    willing = [r for r in replicas if r.pool == pool and not r.draining and r.id not in pin.refused]
    if not willing:
        raise NoReplica("every replica has refused the session")
    willing.sort(key=lambda r: (not fits(r.held, need, r.capacity), r.age_order))
    return [replica.id for replica in willing]


def fits(held: float, need: float, capacity: float) -> bool:
    """Whether `need` goes on top of `held`; sums of utilisations carry rounding."""
    return held + need <= capacity + ROUNDING


ROUNDING = 1e-9
