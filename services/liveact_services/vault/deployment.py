"""Vault: keeps what sessions have become in its host's memory, so that what a lost replica held can go on elsewhere."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from liveact_models import blob
from liveact_models.blob import StateError
from liveact_services.conductor.archive import Kept, Writing
from liveact_services.conductor.parts import Part
from liveact_services.replica import join_serve_log
from liveact_services.vault.shelf import Shelf, check

if TYPE_CHECKING:
    from liveact_services.config import ServiceConfig

GIB = 1024**3

log = logging.getLogger(__name__)


class Vault:
    """A `Shelf` that others reach; every export and every page is checked when it comes and when it goes.

    `attempt`: on whose behalf. Where a later owner of the session has come, an earlier one's calls raise `Superseded`.
    """

    def __init__(self, config: ServiceConfig) -> None:
        join_serve_log()
        self._shelf = Shelf(int(config.vault.max_gib * GIB), config.sessions.longest_rest_s)

    async def put(self, session: str, part: Part, block: int, export: bytes, attempt: int = 0) -> bool:
        """Keep an export of the boundary before that block; whether it is kept, which one of a closed session is not.

        Raises `StateError` for a damaged one, `VaultFull`, and `Superseded` after a later owner.
        """
        await asyncio.to_thread(check, export, block)
        self._shelf.put(session, part, block, export, attempt)
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

    async def write(self, session: str, attempt: int, writing: Writing) -> Kept:
        """Keep pages of the session's journal. Raises `StateError` for a damaged one, and `VaultFull`."""
        for page in writing.pages.values():
            await asyncio.to_thread(blob.verify, page)
        return self._shelf.write(session, attempt, writing)

    async def read(self, session: str, attempt: int | None = None) -> dict[str, bytes]:
        """The pages of the session's journal, but for those that are damaged, which are dropped.

        With an attempt, that of an owner which goes on from here: whoever had the session before writes no more.
        """
        pages = self._shelf.read(session, attempt)
        for name, page in list(pages.items()):
            try:
                await asyncio.to_thread(blob.verify, page)
            except StateError as error:
                del pages[name]
                self._shelf.drop_page(session, name)
                log.error("page %s dropped: %s", name, error, extra={"session_id": session})
        return pages

    async def forget(self, session: str, attempt: int | None = None) -> None:
        """Forget a session; an unknown one is no error."""
        self._shelf.forget(session, attempt)

    async def sessions(self) -> list[str]:
        """The sessions of which something is held."""
        return self._shelf.sessions
