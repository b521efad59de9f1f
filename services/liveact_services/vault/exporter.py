"""The way of a session's value from the replica that computes it to the Vault, beside the computing and not in it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from liveact_services.independent import independent

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from liveact_services.conductor.parts import Part

DELIVERY_S = 3.0
"""How long a session that is to leave waits for the Vault; it then goes on where it is."""

log = logging.getLogger(__name__)

Snapshot = Callable[[], bytes]
"""A session's value as it was when this was made: calling it, on any thread and at any later time, serialises it."""
Put = Callable[[str, int, bytes, int], Awaitable[bool]]
"""Hands (session, block, export, attempt) to a Vault; whether it is kept there."""


def put_into(vault: DeploymentHandle | None, part: Part) -> Put | None:
    """The way of a part's exports into that deployment."""
    if vault is None:
        return None

    async def put(session: str, block: int, export: bytes, attempt: int) -> bool:
        return await vault.options(session_id=session).put.remote(session, part, block, export, attempt)

    return put


@dataclass
class Exported:
    """What was sent to a Vault from here so far."""

    count: int = 0
    nbytes: int = 0
    serialised_s: float = 0.0
    """Seconds that writing them as bytes took, on a thread beside the computing."""

    def add(self, export: bytes, took_s: float) -> None:
        """One more was sent."""
        self.count += 1
        self.nbytes += len(export)
        self.serialised_s += took_s


class Exporter:
    """Sends every `every`-th boundary's value away. It never raises and never waits: a session goes on without its export.

    A value whose predecessor is still on its way is passed over, so that a slow Vault costs protection and not memory.
    """

    def __init__(self, put: Put | None, every: int) -> None:
        """`put` is None where there is no Vault; `every` is 0 where nothing is to be exported."""
        self._put, self._every = put, every
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="Exporter")
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._wanted: set[str] = set()
        self.exported = Exported()

    def due(self, block: int) -> bool:
        """Whether the boundary before this block is one of which exports are made."""
        return self._put is not None and self._every > 0 and block > 0 and block % self._every == 0

    def want(self, session: str) -> None:
        """Export the next boundary of the session whichever it is: the Vault has lost what it held."""
        self._wanted.add(session)

    def offer(self, session: str, block: int, snapshot: Callable[[], Snapshot], attempt: int = 0) -> None:
        """The session stands before `block`: take its value with `snapshot`, now, and send it when there is time.

        `attempt`: the one at which it was made.
        """
        wanted = session in self._wanted and block > 0 and self._every > 0
        if self._put is None or not (wanted or self.due(block)) or session in self._under_way:
            return
        self._wanted.discard(session)
        task = independent(self._send(self._put, session, block, snapshot(), attempt))
        self._under_way[session] = task
        task.add_done_callback(lambda _: self._under_way.pop(session, None))

    def forget(self, session: str) -> None:
        """The session is held here no more."""
        self._wanted.discard(session)

    async def deliver(self, session: str, block: int, snapshot: Snapshot, attempt: int) -> bool:
        """Put the session's value, which stands before `block`, into the Vault; whether it is there."""
        if self._put is None:
            return False
        try:
            async with asyncio.timeout(DELIVERY_S):
                if (under_way := self._under_way.get(session)) is not None:
                    await asyncio.wait({under_way})
                return await self._export(self._put, session, block, snapshot, attempt)
        except Exception as error:
            log.warning("not handed over before block %d: %s", block, error, extra={"session_id": session})
            return False

    async def _send(self, put: Put, session: str, block: int, snapshot: Snapshot, attempt: int) -> None:
        try:
            await self._export(put, session, block, snapshot, attempt)
        except Exception as error:
            log.warning("no export before block %d: %s", block, error, extra={"session_id": session})

    async def _export(self, put: Put, session: str, block: int, snapshot: Snapshot, attempt: int) -> bool:
        """Serialise the value and hand it over; whether it is kept."""
        export, took_s = await asyncio.get_running_loop().run_in_executor(self._pool, _timed, snapshot)
        kept = await put(session, block, export, attempt)
        self.exported.add(export, took_s)
        return kept


def _timed(snapshot: Snapshot) -> tuple[bytes, float]:
    began = time.perf_counter()
    return snapshot(), time.perf_counter() - began
