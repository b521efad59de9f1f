"""Which replicas are about to go, as the routers of this process last heard it.

A replica learns of its own end last: Serve tells those that call it and not itself. `router.py` writes down here who is listed,
who has left the list and who says that it drains; whoever has a session there reads it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from weakref import WeakValueDictionary

AT_A_TIME = 2
"""Sessions that leave one replica together, of those this process speaks for."""


@dataclass(frozen=True)
class Listing:
    """One deployment's replicas, by id."""

    serving: frozenset[str] = frozenset()
    """Those on Serve's list."""
    draining: frozenset[str] = frozenset()
    """Those of them that say they drain."""
    left: frozenset[str] = frozenset()
    """Those that were on it, and are not known to be dead."""
    room: float = 0.0
    """Small sessions that those which serve and do not drain may take besides what they hold, as far as they have said."""
    free: tuple[tuple[str, float], ...] = ()
    """Those of them with most room that hold something, and how much, as `Pin.size` counts it."""


def key(application: str, deployment: str) -> str:
    """How the board calls a deployment."""
    return f"{application}/{deployment}"


class DepartureBoard:
    """Routers write, from the thread they run on; everybody else reads."""

    def __init__(self) -> None:
        self._listings: dict[str, Listing] = {}
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def tell(self, deployment: str, listing: Listing) -> None:
        """What is so of a deployment from now on."""
        # A new dictionary every time: another thread may be reading the last one.
        self._listings = {**self._listings, deployment: listing}

    def listing(self, deployment: str) -> Listing:
        """What was last told; nothing of a deployment of which nobody has heard."""
        return self._listings.get(deployment, Listing())

    def leaving(self, replica: str) -> bool:
        """Whether the replica drains or has left Serve's list."""
        return any(replica in one.left or replica in one.draining for one in self._listings.values())

    def turn(self, replica: str) -> asyncio.Semaphore:
        """To be held by a session while it leaves that replica."""
        turn = self._turns.get(replica)
        if turn is None:
            turn = self._turns[replica] = asyncio.Semaphore(AT_A_TIME)
        return turn


BOARD = DepartureBoard()
"""This process's own."""


async def until_stopped(look_s: float = 0.5) -> None:
    """In a replica: wait until Serve has taken it off its deployment's list, which is how a stop begins.

    The deployment has to have a router that tells.
    """
    from ray import serve

    me = serve.get_replica_context()
    # The handle's router hears of the list for as long as the handle is there.
    handle = serve.get_deployment_handle(me.deployment, me.app_name).options(session_id="")
    listed = False
    while True:
        serving = me.replica_id.unique_id in BOARD.listing(key(handle.app_name, handle.deployment_name)).serving
        if listed and not serving:
            return
        listed = listed or serving
        await asyncio.sleep(look_s)
