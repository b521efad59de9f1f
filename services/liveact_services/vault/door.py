"""A Vault's own port, at which other Vaults ask for sessions that have gone on with them (protos/liveact/vault/v1)."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import grpc

from liveact.vault.v1 import vault_pb2 as pb
from liveact.vault.v1 import vault_pb2_grpc as pb_grpc
from liveact_models.blob import StateError
from liveact_services.conductor.parts import Part
from liveact_services.errors import ServiceError
from liveact_services.placement.pins import Superseded
from liveact_services.vault.registry import LAPSE_S, Address, Registry
from liveact_services.vault.shelf import ExportMissing

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
T = TypeVar("T")

PIECE_BYTES = 4 * 2**20
OPTIONS = (("grpc.max_send_message_length", -1),)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Told:
    """What a Vault holds of a session, as it stood before it was asked."""

    attempt: int
    taken: bool
    pages: dict[str, bytes]
    exports: dict[Part, list[int]]
    """The blocks before which there are exports, the newest first."""


class Held(Protocol):
    """What is behind the door."""

    async def tell(self, session: str, attempt: int | None) -> Told:
        """Where the session stands; with an attempt, which takes it. Raises `Superseded`."""

    async def export(self, session: str, part: Part, block: int) -> bytes:
        """One export. Raises `ExportMissing` and `StateError`."""


class Door(pb_grpc.VaultServiceServicer):
    """Answers those who know the secret, which stands in the registry."""

    def __init__(self, held: Held, id: str, host: str) -> None:
        self._held, self._id, self._host = held, id, host
        self._secret = secrets.token_urlsafe(32)
        self._server: grpc.aio.Server | None = None

    async def open(self) -> Address:
        """Listen on a free port of the host."""
        self._server = grpc.aio.server(options=OPTIONS)
        pb_grpc.add_VaultServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(f"{self._host}:0")
        await self._server.start()
        return Address(self._id, f"{self._host}:{port}", self._secret)

    async def stay_known(self, address: Address, registry: Registry) -> None:
        """Keep the registry's entry up, for as long as this runs."""
        known = True
        while True:
            try:
                await registry.renew(address)
                known = True
            except ServiceError as error:
                if known:
                    log.warning("other Vaults do not hear of this one: %s", error)
                known = False
            await asyncio.sleep(LAPSE_S / 3)

    async def close(self) -> None:
        """Answer nobody any more."""
        if self._server is not None:
            await self._server.stop(grace=None)

    # ---- what is asked

    async def ReadSession(
        self, request: pb.ReadSessionRequest, context: Context
    ) -> AsyncIterator[pb.ReadSessionResponse]:
        """The journal, then the lists of exports."""
        await self._require_secret(context)
        attempt = request.attempt if request.HasField("attempt") else None
        told = await _answered(context, lambda: self._held.tell(request.session, attempt))
        yield pb.ReadSessionResponse(standing=pb.Standing(attempt=told.attempt, taken=told.taken))
        for name, data in told.pages.items():
            yield pb.ReadSessionResponse(page=pb.Page(name=name, data=data))
        for part, blocks in told.exports.items():
            if blocks:
                yield pb.ReadSessionResponse(exports=pb.Exports(part=part.value, blocks=blocks))

    async def ReadExport(self, request: pb.ReadExportRequest, context: Context) -> AsyncIterator[pb.ReadExportResponse]:
        """The export, a piece at a time."""
        await self._require_secret(context)
        export = await _answered(context, lambda: self._held.export(request.session, Part(request.part), request.block))
        for at in range(0, len(export), PIECE_BYTES):
            yield pb.ReadExportResponse(data=export[at : at + PIECE_BYTES])

    async def _require_secret(self, context: Context) -> None:
        said = dict(context.invocation_metadata() or ()).get("authorization", "")
        if not hmac.compare_digest(str(said).encode(), f"Bearer {self._secret}".encode()):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the secret in the registry is asked for")


async def _answered(context: Context, ask: Callable[[], Awaitable[T]]) -> T:
    try:
        return await ask()
    except Superseded as error:
        await context.abort(grpc.StatusCode.ABORTED, str(error))
    except (ExportMissing, StateError, ValueError) as error:
        await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
    raise AssertionError("abort raises")
