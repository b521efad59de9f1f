"""The sweep, again and again: records whose time has passed are ended, and long-ended ones removed."""

from __future__ import annotations

import asyncio

from liveact_services.errors import ServiceError
from liveact_services.sessions.store import Ended, SessionStore

PERIOD_S = 5.0
GRACE_S = 10.0
"""After the store was away: sessions that live could not say so, and are given this long to do it before any is ended."""


class Sweeper:
    """Sweeps for as long as `run` is awaited. Any number may, in any number of processes."""

    def __init__(
        self,
        store: SessionStore,
        period_s: float = PERIOD_S,
        grace_s: float = GRACE_S,
        ended: Ended | None = None,
    ) -> None:
        self._store, self._period_s, self._grace_s, self._ended = store, period_s, grace_s, ended

    async def run(self) -> None:
        """Never returns."""
        while True:
            await asyncio.sleep(self._period_s)
            try:
                await self._store.sweep(ended=self._ended)
            except ServiceError:
                await self._until_back()
                await asyncio.sleep(self._grace_s)

    async def _until_back(self) -> None:
        while True:
            try:
                await self._store.ping()
                return
            except ServiceError:
                await asyncio.sleep(1.0)
