"""Room in one piece: who is asked to make room for a session that none takes, while there is enough in pieces.

Gateways and the simulator ask here; what the replica then does is `denoiser/gathering.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

MAKERS = 4
"""Replicas that are asked to make room, one after the other."""
PIECES = 32
"""How many of the largest pieces of room such a replica is told of: where its sessions may go."""
GATHER_FROM_S = 10.0
"""A session that surely has room sooner waits for it: nobody moves for its sake."""


def makers(size: float, free: Sequence[tuple[str, float]]) -> Iterator[tuple[str, list[float]]]:
    """Replicas that may make room for a session of that size, the one that lacks least first, each with the room elsewhere.

    `free`: replicas and the room they have, as far as it was heard, in the unit of `size`: the `MAKERS + PIECES` with most do.
    """
    largest = sorted(free, key=lambda one: (-one[1], one[0]))
    lacking = [replica for replica, room in largest if 0 < room < size]
    for maker in lacking[:MAKERS]:
        yield maker, [room for replica, room in largest if replica != maker][:PIECES]
