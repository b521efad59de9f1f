"""One session's turns at a stage that keeps state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from liveact_services.placement.pins import ReplicaGone, Superseded


class BlockOrder:
    """Lets a session's blocks through one by one: calls may overtake each other on their way, states may not.

    A block that fails keeps its turn: it can be made again, and those behind it wait until it was, or until the session is
    closed or a later attempt begins.
    """

    def __init__(self, next_block: int = 0, attempt: int = 0) -> None:
        self.last_used = time.monotonic()
        """When somebody asked for the session."""
        self.held_by: object | None = None
        """The call that holds the session here."""
        self.next_block = next_block
        self._attempt = attempt
        self._finishing = attempt
        """Blocks of attempts before this one are given up even if it is their turn."""
        self._holder: object | None = None
        self._closed = False
        self._asked_away = False
        self._moved = asyncio.Event()

    @asynccontextmanager
    async def turn(self, block: int, attempt: int = 0) -> AsyncIterator[None]:
        """Wait for the blocks before this one, then have the session to itself.

        Raises `ReplicaGone` for a session that was closed, `Superseded` for a call of an earlier attempt, `ValueError` for a
        block that was made before or is being made.
        """
        self.last_used = time.monotonic()
        self.check(attempt)
        while self.next_block < block:
            await self._moved.wait()
            self.check(attempt)
        if self.next_block != block or self._holder is not None:
            following = self.next_block + (self._holder is not None)
            raise ValueError(f"block {block} was made before or is being made; the next is {following}")
        holder = self._holder = object()
        try:
            yield
            if self._holder is holder:
                self.next_block += 1
        finally:
            if self._holder is holder:
                self._holder = None
                self._wake()

    def check(self, attempt: int) -> None:
        """Raise `ReplicaGone` or `Superseded` where the session is not for this attempt any more."""
        if self._closed:
            raise ReplicaGone("the session was closed while its block waited")
        if attempt < self._attempt:
            raise Superseded(f"attempt {attempt} came after attempt {self._attempt} had begun")

    def check_turn(self, attempt: int) -> None:
        """The same for the block whose turn it is: `supersede` may let it be finished."""
        if self._closed or attempt < self._finishing:
            self.check(attempt)

    def supersede(self, attempt: int, finish: bool = False) -> None:
        """Begin an attempt: calls of those before are sent away, but for the one whose turn it is.

        That one finds out by `check_turn`, unless it is to `finish` its block.
        """
        self.last_used = time.monotonic()
        self.check(attempt)
        self._attempt = attempt
        if not finish:
            self._finishing = attempt
        self._wake()

    async def closed(self, within_s: float) -> bool:
        """Whether the session was closed; waits so long for it, or until the session is asked away."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not (self._closed or self._asked_away):
                    await self._moved.wait()
        return self._closed

    def ask_away(self) -> None:
        """Have whoever holds the session here look for another place for it."""
        self._asked_away = True
        self._wake()

    def asked_away(self) -> bool:
        """Whether that was asked since it was last looked at."""
        asked, self._asked_away = self._asked_away, False
        return asked

    async def idle(self) -> None:
        """Wait until nobody has the turn."""
        while self._holder is not None:
            await self._moved.wait()

    def put_at(self, block: int) -> None:
        """The state stands before this block, whatever became of whoever has the turn."""
        self.next_block, self._holder = block, None
        self._wake()

    @property
    def busy(self) -> bool:
        """Whether a block is being made."""
        return self._holder is not None

    def close(self) -> None:
        """Send away every block that waits."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()
