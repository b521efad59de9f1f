"""Ways in which a real Valkey fails a service: it dies, hangs, answers late, is full, or comes back without its data."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import subprocess
import types
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psutil
import pytest
import pytest_asyncio

from liveact_services.sessions import EmbeddedValkey, embedded


class Proxy:
    """TCP in front of a server. Every piece of its answers is held for `delay_s`."""

    def __init__(self, port: int) -> None:
        self.delay_s = 0.0
        self._behind = port
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """Gives its own port."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._behind)
            for way in (self._pass(reader, behind_writer, slow=False), self._pass(behind_reader, writer, slow=True)):
                task = asyncio.create_task(way)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if slow and self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
        writer.close()


class Failing:
    """An embedded Valkey behind a proxy, and what can befall it."""

    def __init__(self, server: EmbeddedValkey, proxy: Proxy, url: str) -> None:
        self.server, self.proxy = server, proxy
        self.url = url
        """Through the proxy."""

    @property
    def pid(self) -> int:
        return int((self.server.data_dir / "valkey.pid").read_text())

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.pid)

    async def fail(self, how: str) -> None:
        match how:
            case "stopped":
                await asyncio.to_thread(self.server.stop)
            case "hung":
                self.process.suspend()
            case "slow":
                self.proxy.delay_s = 3.0
            case "memory":
                await self._tell("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1")
            case "disk":
                # What its files may grow by is less than the reports of a second.
                (commands,) = (self.server.data_dir / "appendonlydir").glob("*.incr.aof")
                self._limit_files(commands.stat().st_size + 1)

    async def recover(self, how: str, *, empty: bool = False) -> None:
        match how:
            case "stopped":
                if empty:
                    shutil.rmtree(self.server.data_dir)
                await asyncio.to_thread(self.server.start)
            case "hung":
                self.process.resume()
            case "slow":
                self.proxy.delay_s = 0.0
            case "memory":
                await self._tell("CONFIG", "SET", "maxmemory", "0")
            case "disk":
                self._limit_files(resource.RLIM_INFINITY)

    async def die(self, within_s: float = 10.0) -> None:
        """Kill it, and wait until it has been started again."""
        before = self.pid
        os.kill(before, signal.SIGKILL)
        async with asyncio.timeout(within_s):
            while self.pid == before:
                await asyncio.sleep(0.02)

    async def _tell(self, *command: str) -> None:
        import redis.asyncio

        async with redis.asyncio.Redis.from_url(self.server.url) as client:
            await client.execute_command(*command)

    def _limit_files(self, size: int) -> None:
        self.process.rlimit(psutil.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest_asyncio.fixture
async def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Failing]:
    """One that keeps its address and password when it is started again, as a Redis that is not embedded would."""
    port = embedded._free_port()
    monkeypatch.setattr(embedded, "_free_port", lambda: port)
    monkeypatch.setattr(embedded, "secrets", types.SimpleNamespace(token_hex=lambda size: "the-same"))
    server = await asyncio.to_thread(EmbeddedValkey(tmp_path / "valkey").start)
    proxy = Proxy(port)
    parts = urlsplit(server.url)
    url = urlunsplit(parts._replace(netloc=parts.netloc.replace(str(port), str(await proxy.start()))))
    yield Failing(server, proxy, url)
    with suppress(psutil.NoSuchProcess, FileNotFoundError):
        Failing(server, proxy, url).process.resume()
    await asyncio.to_thread(server.stop)
    await proxy.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)
