"""What the Denoisers' policies tell the others: how many sessions there are.

Serve calls the policies of all deployments in its controller's process and shows each only its own deployment (a policy over a
whole application is open to applications deployed from Serve's config files only). So they meet on `BOARD`, which lives in
that process; after a restart of the controller it is filled again with the next tick.
"""

from __future__ import annotations

STALE_S = 60.0
"""A deployment that has told nothing for so long is there no more."""


class DemandBoard:
    """By application and deployment: the sessions it holds and those that wait for it."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], tuple[float, float]] = {}

    def tell(self, application: str, deployment: str, sessions: float, now: float) -> None:
        """So many are there and wait."""
        self._told[application, deployment] = (now, sessions)

    def sessions(self, application: str, now: float) -> float:
        """Of all its deployments that told of any."""
        told = ((when, count) for (of, _), (when, count) in self._told.items() if of == application)
        return sum(count for when, count in told if now - when <= STALE_S)


BOARD = DemandBoard()
