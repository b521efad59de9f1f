"""Room in one piece: which sessions go elsewhere so that a larger one has a place here.

Which places elsewhere they will find nobody knows: what is heard of other replicas is late, and others look for places too. So
there must be some to choose from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from liveact_services.denoiser.room import Demand, Room

PLACES = 4
"""How many sessions of its size there must be room for elsewhere, that one is asked to leave."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Settled:
    """A session that may be asked to leave."""

    demand: Demand
    size: float
    """As other replicas know it (`SessionSpec.size`)."""


def who_leaves(room: Room, wanted: Demand, settled: Mapping[str, Settled], elsewhere: Iterable[float]) -> list[str]:
    """Sessions without which the wanted one fits, few and small; none where that is not enough, or there is no place for them.

    `room`: what is left while all are there; `elsewhere`: pieces of room, in sizes.
    """
    leave = _in_the_way(room.copy(), wanted, settled)
    return leave if _have_places([settled[name].size for name in leave], elsewhere) else []


def _in_the_way(room: Room, wanted: Demand, settled: Mapping[str, Settled]) -> list[str]:
    left, chosen = {name: one.demand for name, one in settled.items()}, []
    while not room.fits(wanted):
        if not left:
            return []
        size = {name: (demand.utilisation, demand.memory) for name, demand in left.items()}
        enough = [name for name, demand in left.items() if _without(room, demand).fits(wanted)]
        name = min(enough, key=size.__getitem__) if enough else max(left, key=size.__getitem__)
        chosen.append(name)
        room.give(left.pop(name))
    return chosen


def _without(room: Room, demand: Demand) -> Room:
    after = room.copy()
    after.give(demand)
    return after


def _have_places(sizes: Iterable[float], elsewhere: Iterable[float]) -> bool:
    """Whether there are `PLACES` for each to choose from, the largest first, after those before it took the tightest.

    Of a small fleet, where few look for places at once, as many as there are pieces.
    """
    pieces = sorted(elsewhere)
    enough = min(PLACES, len(pieces))
    for size in sorted(sizes, reverse=True):
        fitting = [room for room in pieces if room + _ROUNDING >= size]
        if not fitting or sum(int((room + _ROUNDING) / size) for room in fitting) < enough:
            return False
        pieces.remove(fitting[0])
        pieces = sorted([*pieces, fitting[0] - size])
    return True
