"""Vault: keeps session exports in its host's memory, so that what a lost replica held can go on elsewhere."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from liveact_models.blob import StateError
from liveact_services.conductor.parts import Part
from liveact_services.replica import join_serve_log
from liveact_services.vault.shelf import Shelf, check

if TYPE_CHECKING:
    from liveact_services.config import ServiceConfig

GIB = 1024**3

log = logging.getLogger(__name__)


class Vault:
    """A `Shelf` that others reach; every export is checked when it comes and when it goes."""

    def __init__(self, config: ServiceConfig) -> None:
        join_serve_log()
        self._shelf = Shelf(int(config.vault.max_gib * GIB), config.sessions.longest_rest_s)

    async def put(self, session: str, part: Part, block: int, export: bytes) -> bool:
        """Keep an export of the boundary before that block; whether it is kept, which one of a closed session is not.

        Raises `StateError` for a damaged one, and `VaultFull`.
        """
        await asyncio.to_thread(check, export, block)
        self._shelf.put(session, part, block, export)
        return block in self._shelf.blocks(session, part)

    async def blocks(self, session: str, part: Part) -> list[int]:
        """The blocks before which exports of the part are held, the newest first."""
        return self._shelf.blocks(session, part)

    async def get(self, session: str, part: Part, block: int) -> bytes:
        """The export before that block. Raises `ExportMissing`, and `StateError` for one that is damaged, which is dropped."""
        export = self._shelf.get(session, part, block)
        try:
            await asyncio.to_thread(check, export, block)
        except StateError as error:
            self._shelf.drop(session, part, block)
            log.error("export before block %d dropped: %s", block, error, extra={"session_id": session})
            raise
        return export

    async def forget(self, session: str) -> None:
        """Forget a session; an unknown one is no error."""
        self._shelf.forget(session)

    async def sessions(self) -> list[str]:
        """The sessions of which something is held."""
        return self._shelf.sessions
