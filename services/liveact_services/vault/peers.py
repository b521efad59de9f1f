"""The other Vaults, as one of them sees them: what they hold of a session that came from their cluster to this one.

A session's client comes back at another cluster when its own is exchanged, and its Gateway there asks the Vault there. What that
one lacks it fetches: the journal at once, an export only when it is adopted, since exports are large.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import grpc

from liveact.vault.v1 import vault_pb2 as pb
from liveact.vault.v1 import vault_pb2_grpc as pb_grpc
from liveact_services.conductor.archive import owner
from liveact_services.conductor.parts import Part
from liveact_services.errors import ServiceError
from liveact_services.placement.pins import Superseded
from liveact_services.vault.registry import Address
from liveact_services.vault.shelf import ExportMissing

ANSWER_S = 3.0
"""How long another Vault may take to tell of a session: one that died is in the registry for a while."""
FETCH_S = 60.0
"""How long an export may be on its way."""
OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))

log = logging.getLogger(__name__)


class Known(Protocol):
    """Who there is to ask."""

    async def others(self, me: str) -> list[Address]:
        """Every Vault but this one."""


@dataclass
class Elsewhere:
    """What another Vault holds of a session."""

    where: Address
    attempt: int = 0
    """The newest on whose behalf somebody came there."""
    taken: bool = False
    """Whether the session has gone on from there to yet another."""
    pages: dict[str, bytes] = field(default_factory=dict)
    exports: dict[Part, list[int]] = field(default_factory=dict)
    """The blocks before which exports of each part were held when it was asked, the newest first."""

    @property
    def newness(self) -> tuple[bool, int, int]:
        """What is held is the newer the greater this is."""
        return (
            not self.taken,
            owner(self.attempt),
            max((int(name) for name in self.pages if name.isdecimal()), default=-1),
        )

    def without_pages(self) -> Elsewhere:
        """The same, once the journal has been handed on."""
        return dataclasses.replace(self, pages={})

    def cut(self, block: int) -> None:
        """Exports before blocks beyond this one are not the session's any more."""
        self.exports = {part: [b for b in blocks if b <= block] for part, blocks in self.exports.items()}

    async def export(self, session: str, part: Part, block: int) -> bytes:
        """Fetch one. Raises `ExportMissing` where it cannot be had."""
        request = pb.ReadExportRequest(session=session, part=part.value, block=block)
        try:
            async with _asking(self.where) as (stub, metadata):
                pieces = stub.ReadExport(request, metadata=metadata, timeout=FETCH_S)
                return b"".join([piece.data async for piece in pieces])
        except grpc.aio.AioRpcError as error:
            text = f"session {session}: the export of the {part} before block {block} cannot be fetched from {self.where.target}"
            raise ExportMissing(f"{text}: {error.details()}") from None


class Peers:
    """Asks all other Vaults at once."""

    def __init__(self, registry: Known, me: str) -> None:
        self._registry, self._me = registry, me

    async def find(self, session: str, attempt: int | None = None) -> Elsewhere | None:
        """What is held of the session elsewhere, by the Vault where it was last.

        With an attempt, that of an owner which goes on from here: whoever had the session before writes no more there. Raises
        `Superseded` where a later owner has come. Vaults that do not answer have nothing.
        """
        try:
            known = await self._registry.others(self._me)
        except ServiceError as error:
            log.warning("other Vaults are not known: %s", error)
            return None
        found = [held for held in await asyncio.gather(*(_ask(one, session, attempt) for one in known)) if held]
        return max(found, key=lambda held: held.newness, default=None)


async def _ask(where: Address, session: str, attempt: int | None) -> Elsewhere | None:
    held = Elsewhere(where)
    request = pb.ReadSessionRequest(session=session, attempt=attempt)
    try:
        async with _asking(where) as (stub, metadata):
            async for told in stub.ReadSession(request, metadata=metadata, timeout=ANSWER_S):
                match told.WhichOneof("content"):
                    case "standing":
                        held.attempt, held.taken = told.standing.attempt, told.standing.taken
                    case "page":
                        held.pages[told.page.name] = told.page.data
                    case "exports":
                        held.exports[Part(told.exports.part)] = list(told.exports.blocks)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.ABORTED:
            raise Superseded(error.details()) from None
        log.warning("the Vault at %s does not tell of session %s: %s", where.target, session, error.details())
        return None
    return held if held.pages or held.exports else None


@asynccontextmanager
async def _asking(where: Address) -> AsyncIterator[tuple[pb_grpc.VaultServiceStub, tuple[tuple[str, str], ...]]]:
    """A connection for one question: sessions come from elsewhere one at a time, and seldom."""
    async with grpc.aio.insecure_channel(where.target, options=OPTIONS) as channel:
        yield pb_grpc.VaultServiceStub(channel), (("authorization", f"Bearer {where.secret}"),)
