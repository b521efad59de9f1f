"""How long a session waits for those who serve it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import TypeVar

from liveact_services.conductor.parts import PartLost
from liveact_services.conductor.stages import VideoPart

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How long a session waits, in seconds, and for what."""

    stage_s: float
    """For the next part of a block, and for a replica's word that it lives."""
    place_s: float
    """For a lost part to be placed anew, from the loss to the next frame."""

    async def in_time(self, waiting: Awaitable[T]) -> T:
        """What is awaited, or `PartLost` when it takes too long."""
        try:
            async with asyncio.timeout(self.stage_s):
                return await waiting
        except TimeoutError:
            raise PartLost(f"nothing came for {self.stage_s:g} s") from None

    async def timely(self, parts: AsyncIterator[VideoPart]) -> AsyncIterator[VideoPart]:
        """The parts as they come; raises `PartLost` when the next takes too long."""
        while True:
            try:
                part = await self.in_time(anext(parts))
            except StopAsyncIteration:
                return
            yield part
