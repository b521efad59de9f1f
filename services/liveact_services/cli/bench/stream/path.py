"""A path between a client and a service that delays, jitters and loses."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass

from liveact_services.cli.bench.chaos.forwarder import Connection, Forwarder, Side

SEGMENT_BYTES = 1448
"""What a TCP segment carries on Ethernet."""
WINDOW_SEGMENTS = 512
"""Segments on their way at a time; who sends more waits."""


@dataclass(frozen=True)
class Weather:
    """What a path does to every segment, one way. Times in seconds."""

    delay_s: float
    jitter_s: float
    """Added evenly from 0 to this. Order is kept: a late segment holds up those behind it, as in TCP."""
    loss: float
    """Share of segments that are lost and sent again."""

    @property
    def again_s(self) -> float:
        """How much later a lost segment comes: a round trip until it is noticed, and never below Linux's 200 ms."""
        return max(0.2, 2 * self.delay_s + self.jitter_s)


class ShapedPath(Forwarder):
    """A forwarder with that weather, both ways. Loss shows to a TCP client as delay, so that is what it is here."""

    def __init__(self, target: str, weather: Weather, seed: int) -> None:
        super().__init__(target)
        self._weather, self._draw = weather, random.Random(seed)

    def _connection(self, near: Side, far: Side) -> Connection:
        return ShapedConnection(near, far, self._weather, self._draw)


class ShapedConnection(Connection):
    """Two sockets, and segments on their way between them."""

    def __init__(self, near: Side, far: Side, weather: Weather, draw: random.Random) -> None:
        super().__init__(near, far, None)
        self._weather, self._draw = weather, draw

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WINDOW_SEGMENTS)
        arriving = asyncio.create_task(self._arrive(on_the_way, writer))
        clock, weather = asyncio.get_running_loop().time, self._weather
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(SEGMENT_BYTES):
                    at = clock() + weather.delay_s + self._draw.uniform(0, weather.jitter_s)
                    if self._draw.random() < weather.loss:
                        at += weather.again_s
                    await on_the_way.put((at, data))
        finally:
            arriving.cancel()
        self.abort()
        return False

    async def _arrive(self, on_the_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop().time
        with contextlib.suppress(OSError):
            while True:
                at, data = await on_the_way.get()
                await asyncio.sleep(at - clock())
                writer.write(data)
                await writer.drain()
