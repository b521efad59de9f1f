"""Where a call goes: the decision itself, over plain values. Serve's router and the simulator both ask here.

Two routers may see the fleet differently. What they decide is a hint: the replica admits for itself, and lets nobody act on a
session at an older attempt than it has seen (`fencing.py`).
"""

from __future__ import annotations

import math
import zlib
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
    """What its sessions take, in small sessions: of the smallest kind that it has lately seen."""
    capacity: float = math.inf
    """How many of those it takes."""
    draining: bool = False
    """Whether it keeps its sessions and takes no others."""
    pool: str = DEFAULT_POOL
    unit: float = 1.0
    """The size of a small session, as `Pin.size` says it of others."""

    def has_room(self, size: float) -> bool:
        """For a session of that size, or for all that it could ever take."""
        return fits(self.held, min(size / self.unit, self.capacity), self.capacity)

    @property
    def free(self) -> float:
        """The largest size there is room for; an empty one has all the room that it could ever have."""
        return (self.capacity - self.held) * self.unit if self.held > 0 else math.inf

    @property
    def age_order(self) -> tuple[float, str]:
        """Sorts the oldest first."""
        return self.started_at, self.id


def choose(pin: Pin, replicas: Iterable[ReplicaView], *, pool: str = DEFAULT_POOL) -> list[str]:
    """The ids of the replicas to ask, in order.

    A pinned call goes to its replica, draining or not. A new session goes to the oldest replica of its pool with room for it:
    that leaves the newest empty, which Serve removes first. What a size costs a replica knows better than whoever asks, so the
    more have refused, the more room the next is to have (`wanted`); and in a large fleet the less does age count
    (`passed_over`). Those that look full come last, because the view may be late, and only until `MOST_ASKED` have refused; who
    was refused by `MOST_REFUSALS` asks nobody. Raises `ReplicaGone` and `NoReplica`: nothing waits here.
    """
    if pin.replica is not None:
        for replica in replicas:
            if replica.id == pin.replica:
                return [replica.id]
        raise ReplicaGone(f"replica {pin.replica} no longer serves")
    require_patience(pin)
    fleet = [r for r in replicas if r.pool == pool]
    willing = [r for r in fleet if not r.draining and r.id not in pin.refused]
    if not willing:
        raise NoReplica("every replica has refused the session")
    need = wanted(pin)
    roomy = [r for r in willing if r.has_room(pin.size)]
    roomy.sort(key=lambda r: (not r.has_room(need), r.age_order))
    if fitting := sum(r.has_room(need) for r in roomy):
        first = passed_over(pin, len(fleet)) % fitting
        roomy = [*roomy[first:fitting], *roomy[:first], *roomy[fitting:]]
    full = [r for r in willing if not r.has_room(pin.size)] if len(pin.refused) < MOST_ASKED else []
    if not roomy and not full:
        raise NoReplica(f"{len(pin.refused)} replicas have refused the session and the others look full")
    # Another order for each session: else all those who find no room would stand in line at the same few.
    full.sort(key=lambda r: zlib.crc32(f"{pin.session}@{r.id}".encode()))
    return [replica.id for replica in roomy + full]


def require_patience(pin: Pin) -> None:
    """Raises `NoReplica` for a session that has asked enough."""
    if len(pin.refused) >= MOST_REFUSALS:
        raise NoReplica(f"{len(pin.refused)} replicas have refused the session")


def wanted(pin: Pin) -> float:
    """The size that a replica is to have room for, to be asked next: twice as much after every `DOUBLED` refusals."""
    return pin.size * 2 ** min(len(pin.refused) // DOUBLED, 16)


def passed_over(pin: Pin, fleet: int) -> int:
    """How many with enough room are not asked first, in a fleet of so many: none at first, then some by chance.

    Of a large fleet all who come between two tidings ask the oldest, which is soon full; who was refused would else stand in line
    with all others again, from one to the next.
    """
    widest = min(1 + fleet // CROWD, 2 ** len(pin.refused)) if fleet >= LARGE else 1
    return zlib.crc32(f"{pin.session}#{len(pin.refused)}".encode()) % widest


def fits(held: float, need: float, capacity: float) -> bool:
    """Whether `need` goes on top of `held`; sums of utilisations carry rounding."""
    return held + need <= capacity + ROUNDING


DOUBLED = 4
"""Refusals after which a session is taken for twice as large: views are late, and a size may cost more than it looks."""
MOST_ASKED = 4
"""Who was refused by so many asks none that looks full; each answers in milliseconds, and a fleet may have thousands."""
MOST_REFUSALS = 32
"""Who was refused by so many asks nobody: a large session finds a thousand replicas with a little room, one after the other."""
LARGE, CROWD = 128, 32
"""From how many replicas on some are passed over, and how many there are to each that is, at most. A smaller fleet is filled by
age alone, which keeps its room together; one of thousands has dozens of clients between two tidings."""
ROUNDING = 1e-9
