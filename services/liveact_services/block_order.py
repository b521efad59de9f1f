"""One session's turns at a stage that keeps state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from liveact_services.placement.pins import ReplicaGone


class BlockOrder:
    """Lets a session's blocks through one by one: calls may overtake each other on their way, states may not."""

    def __init__(self, next_block: int = 0) -> None:
        self.last_used = self.last_made = time.monotonic()
        """When somebody asked for the session, and when its last block was made."""
        self._next = next_block
        self._busy = False
        self._closed = False
        self._moved = asyncio.Event()

    @asynccontextmanager
    async def turn(self, block: int) -> AsyncIterator[None]:
        """Wait for the blocks before this one, then have the session to itself.

        A block that fails or is given up half-way closes the session, since those behind it can never have their turn. Raises
        `ReplicaGone` for a session that was closed, `ValueError` for a block that was made before or is being made.
        """
        self.last_used = time.monotonic()
        while not self._closed and self._next < block:
            await self._moved.wait()
        if self._closed:
            raise ReplicaGone("the session was closed while its block waited")
        if self._next != block or self._busy:
            raise ValueError(f"block {block} was made before or is being made; the next is {self._next + self._busy}")
        self._busy = True
        try:
            yield
        except BaseException:
            self.close()
            raise
        self._busy = False
        self._next += 1
        self.last_made = time.monotonic()
        self._wake()

    @property
    def next_block(self) -> int | None:
        """The block that is to be made next; None while one is being made."""
        return None if self._busy else self._next

    def close(self) -> None:
        """Send away every block that waits."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()
