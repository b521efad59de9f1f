"""Vault: keeps what sessions have become in its host's memory, so that what a lost replica held can go on elsewhere."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
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
from liveact_services.placement.departing import BOARD, key, until_stopped
from liveact_services.placement.pins import Superseded
from liveact_services.replica import node_address, replica_id
from liveact_services.sessions import Database
from liveact_services.vault.door import Door, Told
from liveact_services.vault.peers import Elsewhere, Peers
from liveact_services.vault.registry import Registry
from liveact_services.vault.shelf import Shelf, VaultFull, check

if TYPE_CHECKING:
    from liveact_services.config import ServiceConfig


AT_A_TIME = 8
"""Sessions that are given away together."""

log = logging.getLogger(__name__)


class Vault:
    """A `Shelf` that others reach; every export and every page is checked when it comes and when it goes.

    `attempt`: on whose behalf. Where a later owner of the session has come, an earlier one's calls raise `Superseded`.
    """

    def __init__(self, config: ServiceConfig, redis_url: str | None = None) -> None:
        """`redis_url`: where other Vaults are found, from which sessions may come; None: there are none."""
        observe_process(config.telemetry, type(self).__name__)
        self._max_bytes = int(config.vault.max_gib * GIB)
        self._shelf = Shelf(self._max_bytes, config.sessions.longest_rest_s)
        self._elsewhere: dict[str, Elsewhere] = {}
        """Of sessions that came from another Vault, what that one held when they came."""
        self._peers: Peers | None = None
        if redis_url is not None:
            registry = Registry(Database.connect(redis_url))
            self._meeting = asyncio.create_task(self.meet(registry, replica_id(), node_address()))
            # Its router keeps the board of who else there is.
            self._listening = asyncio.create_task(until_stopped())
            # Serve awaits this before it ends the replica. Not of the class, where Python would call it without awaiting.
            self.__del__ = self._give_away
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
        """The blocks before which exports of the part can be had, the newest first."""
        here = self._shelf.blocks(session, part)
        if here or self._peers is None:
            return here
        if session not in self._elsewhere and (found := await self._peers.find(session)) is not None:
            self._elsewhere[session] = found.without_pages()
        elsewhere = self._elsewhere.get(session)
        return [] if elsewhere is None else elsewhere.exports.get(part, [])

    async def get(self, session: str, part: Part, block: int) -> bytes:
        """The export before that block. Raises `ExportMissing`, and `StateError` for one that is damaged, which is dropped."""
        elsewhere = self._elsewhere.get(session)
        if elsewhere is not None and block not in self._shelf.blocks(session, part):
            return await self._fetch(session, part, block, elsewhere)
        return await self.export(session, part, block)

    async def _fetch(self, session: str, part: Part, block: int, elsewhere: Elsewhere) -> bytes:
        export = await elsewhere.export(session, part, block)
        await asyncio.to_thread(check, export, block)
        with suppress(VaultFull, Superseded):
            self._shelf.put(session, part, block, export, self._shelf.standing(session)[0])
        self._measure()
        return export

    async def export(self, session: str, part: Part, block: int) -> bytes:
        """The export before that block that is held here. Raises as `get` does."""
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
        if writing.cut is not None and session in self._elsewhere:
            self._elsewhere[session].cut(writing.cut)
        self._measure()
        return kept

    async def read(self, session: str, attempt: int | None = None) -> dict[str, bytes]:
        """The pages of the session's journal, but for those that are damaged, which are dropped.

        With an attempt, that of an owner which goes on from here: whoever had the session before writes no more, wherever.
        """
        taken = self._shelf.standing(session)[1]
        pages = await self._whole(session, self._shelf.read(session, attempt))
        if self._peers is None or (pages and not taken):
            return pages
        found = await self._peers.find(session, attempt)
        if found is None or found.taken:
            return pages
        if attempt is not None:
            log.info("the session comes from the Vault at %s", found.where.target, extra={"session_id": session})
            self._shelf.empty(session)
            self._elsewhere[session] = found.without_pages()
        return await self._whole(session, found.pages)

    async def _whole(self, session: str, held: dict[str, bytes]) -> dict[str, bytes]:
        """The pages without those that are damaged, which are dropped."""
        pages = dict(held)
        for name, page in held.items():
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
        self._elsewhere.pop(session, None)
        self._measure()

    async def sessions(self) -> list[str]:
        """The sessions of which something is held."""
        return self._shelf.sessions

    # ---- what other Vaults ask ---------------------------------------------------------------------------------------------

    async def tell(self, session: str, attempt: int | None) -> Told:
        """Where the session stands as far as it is held here; with an attempt, which takes it. Raises `Superseded`."""
        stood, shelf = self._shelf.standing(session), self._shelf
        pages = shelf.read(session, None) if attempt is None else shelf.take(session, attempt)
        if attempt is not None:
            self._elsewhere.pop(session, None)
        return Told(*stood, await self._whole(session, pages), {part: shelf.blocks(session, part) for part in Part})

    async def bring(self, session: str) -> None:
        """Take what other Vaults hold of the session that is not here: one of them goes."""
        found = None if self._peers is None else await self._peers.find(session)
        if found is None or found.taken:
            return
        if found.pages and not self._shelf.read(session, None):
            self._shelf.write(session, found.attempt, Writing(found.pages, tuple(found.pages)))
        for part, blocks in found.exports.items():
            for block in blocks:
                if not self._shelf.blocks(session, part) or block > self._shelf.blocks(session, part)[0]:
                    await self._fetch(session, part, block, found)

    async def _give_away(self) -> None:
        """Serve stops this replica: have those that stay take what is held here."""
        from ray import serve

        me = serve.get_replica_context()
        handle = serve.get_deployment_handle(me.deployment, me.app_name)
        if not BOARD.listing(key(handle.app_name, handle.deployment_name)).serving - {me.replica_id.unique_id}:
            return
        turn = asyncio.Semaphore(AT_A_TIME)

        async def give(session: str) -> None:
            async with turn:
                await handle.options(session_id=session).bring.remote(session)

        held = [session for session in self._shelf.sessions if not self._shelf.standing(session)[1]]
        given = await asyncio.gather(*map(give, held), return_exceptions=True)
        failed = [error for error in given if error is not None]
        log.info("%d of %d sessions were given to other Vaults", len(given) - len(failed), len(given))
        for error in failed[:1]:
            log.error("some were not: %s", error)

    async def meet(self, registry: Registry, me: str, host: str) -> None:
        """Be there for other Vaults, by that name and at a port of that host, and ask them too; for as long as this runs."""
        door = Door(self, me, host)
        self._peers = Peers(registry, me)
        try:
            await door.stay_known(await door.open(), registry)
        finally:
            await door.close()

    def _measure(self) -> None:
        METER.record(VAULT_BYTES, self._shelf.nbytes)
        METER.record(VAULT_CAPACITY, self._max_bytes)
        METER.record(VAULT_SESSIONS, len(self._shelf))
