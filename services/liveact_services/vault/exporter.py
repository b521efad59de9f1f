"""The way of a session's value from the replica that computes it to the Vault, beside the computing and not in it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from liveact_services.conductor.parts import Part

DELIVERY_S = 3.0
"""How long a session that is to leave waits for the Vault; it then goes on where it is."""

log = logging.getLogger(__name__)

Snapshot = Callable[[], bytes]
"""A session's value as it was when this was made: calling it, on any thread and at any later time, serialises it."""
Put = Callable[[str, int, bytes], Awaitable[bool]]
"""Hands (session, block, export) to a Vault; whether it is kept there."""


def put_into(vault: DeploymentHandle | None, part: Part) -> Put | None:
    """The way of a part's exports into that deployment."""
    if vault is None:
        return None

    async def put(session: str, block: int, export: bytes) -> bool:
        return await vault.options(session_id=session).put.remote(session, part, block, export)

    return put


class Exporter:
    """Sends every `every`-th boundary's value away. It never raises and never waits: a session goes on without its export.

    A value whose predecessor is still on its way is passed over, so that a slow Vault costs protection and not memory.
    """

    def __init__(self, put: Put | None, every: int) -> None:
        """`put` is None where there is no Vault."""
        self._put, self._every = put, every
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="Exporter")
        self._under_way: dict[str, asyncio.Task[None]] = {}

    def due(self, block: int) -> bool:
        """Whether the boundary before this block is one of which exports are made."""
        return self._put is not None and block > 0 and block % self._every == 0

    def offer(self, session: str, block: int, snapshot: Callable[[], Snapshot]) -> None:
        """The session stands before `block`: take its value with `snapshot`, now, and send it when there is time."""
        if self._put is None or not self.due(block) or session in self._under_way:
            return
        # Of a context of its own: Serve cancels what a cancelled request has called, and knows a request by its context.
        task = asyncio.create_task(self._send(self._put, session, block, snapshot()), context=contextvars.Context())
        self._under_way[session] = task
        task.add_done_callback(lambda _: self._under_way.pop(session, None))

    async def deliver(self, session: str, block: int, snapshot: Snapshot) -> bool:
        """Put the session's value, which stands before `block`, into the Vault; whether it is there."""
        if self._put is None:
            return False
        try:
            async with asyncio.timeout(DELIVERY_S):
                if (under_way := self._under_way.get(session)) is not None:
                    await asyncio.wait({under_way})
                export = await asyncio.get_running_loop().run_in_executor(self._pool, snapshot)
                return await self._put(session, block, export)
        except Exception as error:
            log.warning("not handed over before block %d: %s", block, error, extra={"session_id": session})
            return False

    async def _send(self, put: Put, session: str, block: int, snapshot: Snapshot) -> None:
        try:
            await put(session, block, await asyncio.get_running_loop().run_in_executor(self._pool, snapshot))
        except Exception as error:
            log.warning("no export before block %d: %s", block, error, extra={"session_id": session})
