"""A connection that can be cut: TCP passed on between clients and a service."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Self, TypeAlias

CHUNK_BYTES = 16 * 1024
AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: what was not sent is thrown away and the other side gets a reset, as from a network that broke."""


Side: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Forwarder:
    """Listens on a port of its own and passes bytes on to `target`, a "host:port", until it is cut.

    `budget` gives the bytes after which the next connection is cut, both directions together; None for never.
    """

    def __init__(self, target: str, budget: Callable[[], int | None] = lambda: None) -> None:
        self.lead(target)
        self._budget = budget
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._carrying: set[asyncio.Task[None]] = set()
        self.cuts = 0
        """Connections that were cut."""
        self.refusing = False
        """Whether new connections are cut at once."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self._connections):
            connection.abort()
        for task in self._carrying:
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    @property
    def address(self) -> str:
        """Where clients connect to."""
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def lead(self, target: str) -> None:
        """Pass new connections on to this target; those there are go on to theirs."""
        self._host, _, port = target.rpartition(":")
        self._port = int(port)

    def cut(self) -> bool:
        """Break every connection there is; whether there was one."""
        cut = [connection for connection in self._connections if connection.abort()]
        self.cuts += len(cut)
        return bool(cut)

    def _connection(self, near: Side, far: Side) -> Connection:
        return Connection(near, far, self._budget())

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._accept(reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        try:
            upstream = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        connection = self._connection((reader, writer), upstream)
        self._connections.add(connection)
        try:
            self.cuts += await connection.carry()
        finally:
            self._connections.discard(connection)


class Connection:
    """Two sockets, and what goes between them."""

    def __init__(self, near: Side, far: Side, budget: int | None) -> None:
        self._near, self._far, self._left = near, far, budget
        self._aborted = False

    async def carry(self) -> bool:
        """Pass bytes on until a side closes; whether it was cut here because the budget was used up."""
        spent = await asyncio.gather(
            self._pass(self._near[0], self._far[1]), self._pass(self._far[0], self._near[1])
        )  # fmt: skip
        return any(spent)

    def abort(self) -> bool:
        """Break both sides; False when that was done before."""
        if self._aborted:
            return False
        self._aborted = True
        for _, writer in (self._near, self._far):
            with contextlib.suppress(OSError, AttributeError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            writer.transport.abort()
        return True

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if self._left is not None:
                    # The last bytes before the cut still arrive: messages end in the middle.
                    data, self._left = data[: self._left], self._left - min(self._left, len(data))
                writer.write(data)
                await writer.drain()
                if self._left == 0:
                    return self.abort()
        # One side has gone, so nothing that the other says has a hearer.
        self.abort()
        return False
