"""Vault: keeps what sessions have become in its host's memory, so that what a lost replica held can go on elsewhere."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from liveact_models import blob
from liveact_models.blob import StateError
from liveact_models.disk import GIB
from liveact_services.conductor.archive import Kept, Writing
from liveact_services.conductor.parts import Part
from liveact_services.observability.logs import TRACES
from liveact_services.observability.meter import METER
from liveact_services.observability.metrics import VAULT_BYTES, VAULT_CAPACITY, VAULT_SESSIONS
from liveact_services.observability.process import observe_process
from liveact_services.observability.tracing import TRACING
from liveact_services.vault.shelf import Shelf, check

if TYPE_CHECKING:
    from liveact_services.config import ServiceConfig


log = logging.getLogger(__name__)


class Vault:
    """A `Shelf` that others reach; every export and every page is checked when it comes and when it goes.

    `attempt`: on whose behalf. Where a later owner of the session has come, an earlier one's calls raise `Superseded`.
    """

    def __init__(self, config: ServiceConfig) -> None:
        observe_process(config.telemetry, type(self).__name__)
        self._max_bytes = int(config.vault.max_gib * GIB)
        self._shelf = Shelf(self._max_bytes, config.sessions.longest_rest_s)
        self._measure()

    async def put(self, session: str, part: Part, block: int, export: bytes, attempt: int = 0, trace: str = "") -> bool:
        """Keep an export of the boundary before that block; whether it is kept, which one of a closed session is not.

        Raises `StateError` for a damaged one, `VaultFull`, and `Superseded` after a later owner.
        """
        TRACES.note(session, trace)
        with TRACING.span("keep", trace, part=part.value, bytes=len(export)):
            await asyncio.to_thread(check, export, block)
            self._shelf.put(session, part, block, export, attempt)
        self._measure()
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
        kept = self._shelf.write(session, attempt, writing)
        self._measure()
        return kept

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
        self._measure()

    async def sessions(self) -> list[str]:
        """The sessions of which something is held."""
        return self._shelf.sessions

    def _measure(self) -> None:
        METER.record(VAULT_BYTES, self._shelf.nbytes)
        METER.record(VAULT_CAPACITY, self._max_bytes)
        METER.record(VAULT_SESSIONS, len(self._shelf))
