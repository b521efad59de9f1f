"""One session's record in Redis, kept true by its Gateway; a Redis that is away delays the writes and stops nothing."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from typing import TYPE_CHECKING

from liveact_services.conductor.archive import first_attempt
from liveact_services.config import SessionLimits
from liveact_services.errors import ServiceError
from liveact_services.sessions import IllegalMove, LeaseLost, Leases, SessionRecord, SessionState, SessionStore
from liveact_services.sessions.outage import Unanswered
from liveact_services.sessions.quotas import minutes_used_up
from liveact_services.tenants import UNLIMITED, Quotas

if TYPE_CHECKING:
    from liveact_services.conductor.stages import Stages

PERIOD_S = 1.0
LEASE_MS = 10_000

log = logging.getLogger(__name__)


class Ledger:
    """The session as it should stand in Redis, and the task that writes it there.

    `moved` and `progress` only note what is so and never wait: a stream does not stall because a database does. Moves are written
    in the order they happened.
    """

    def __init__(
        self,
        record: SessionRecord,
        store: SessionStore,
        leases: Leases,
        owner: str,
        limits: SessionLimits,
        quotas: Quotas = UNLIMITED,
    ) -> None:
        self.record = record
        self.quotas = quotas
        """The tenant's, as they are now."""
        self.attached = True
        """Whether a client is: then the session holds one of its tenant's streams."""
        self.refusal: ServiceError | None = None
        """Why the session may not go on: its tenant's minutes are used up, its record was ended by somebody else, or it has
        another owner."""
        self.attempt = 0
        """The first of this owner's attempts."""
        self._store, self._leases, self._owner, self._limits = store, leases, owner, limits
        self._moves: list[SessionState] = []
        self._token, self._lapsed = 0, False
        self._changed = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._behind = asyncio.Event()

    @property
    def behind(self) -> bool:
        """Whether the store could not be written when it was tried last."""
        return self._behind.is_set()

    async def admit(self) -> None:
        """Write the new session, reserve what it takes of its tenant's quotas, and take its lease.

        Raises `ServiceError`: without Redis nothing new is begun.
        """
        written = False
        try:
            await self._store.admit(self.record, self.quotas)
            written = True
            token = await self._leases.acquire(self.record.id, self._owner, LEASE_MS)
        except ServiceError as error:
            if written or isinstance(error, Unanswered):
                # What may stand there must not look like a session that lives, nor keep its place.
                self.moved(SessionState.FAILED)
                self._writer = asyncio.create_task(self._write())
            raise
        self._own(token)

    async def take_over(self) -> None:
        """Take the session from whoever has it, on behalf of a client that proved itself. Raises `ServiceError`."""
        token = await self._leases.acquire(self.record.id, self._owner, LEASE_MS, take_over=True)
        # Until now the other may have written: its client may come here before its last moves have come to Redis.
        self.record = await self._store.get(self.record.id, self.record.tenant)
        self._own(token)

    def _own(self, token: int) -> None:
        self._token, self.attempt = token, first_attempt(token)
        self.record = dataclasses.replace(self.record, gateway=self._owner, token=token)
        self._writer = asyncio.create_task(self._write())

    def yields_to(self, record: SessionRecord) -> bool:
        """Whether that record of the session says that a later owner has it."""
        return record.token > self._token

    async def make_sure(self) -> None:
        """Raise SESSION_TAKEN_OVER where the session has another owner, as far as Redis can be asked.

        While it cannot, nobody takes the session over; and who did before, the replicas and the Vault know.
        """
        try:
            async with self._writing:
                await self._hold()
        except LeaseLost as lost:
            self.refusal = lost
            raise
        except ServiceError as error:
            log.warning("the lease could not be looked at: %s", error, extra={"session_id": self.record.id})

    def let_go(self) -> None:
        """The session has another owner: write nothing more."""
        if self._writer is not None:
            self._writer.cancel()

    async def attach(self) -> None:
        """Reserve the stream of a client that resumes; the caller then sets `attached` at once, or the place lapses.

        Raises `ServiceError`.
        """
        # Not while a report is on its way that still says that nobody is attached.
        async with self._writing:
            await self._store.attach(self.record.id, self.record.tenant, self.quotas)

    def placed(self, stages: Stages) -> None:
        """Note which replicas hold the session, where stages are replicas."""
        denoiser, decoder = stages.replicas
        self.record = dataclasses.replace(self.record, denoiser=denoiser, decoder=decoder)

    def moved(self, state: SessionState) -> None:
        """The session is in this state now."""
        if state is not self.record.state:
            self.record = dataclasses.replace(self.record, state=state)
            self._moves.append(state)
            self._changed.set()

    def progress(self, block: int, frame: int) -> None:
        """So many blocks and frames are made."""
        # What is made again after a take-over was counted before.
        record = self.record
        self.record = dataclasses.replace(record, block=max(record.block, block), frame=max(record.frame, frame))

    async def close(self, state: SessionState) -> None:
        """The session has ended: write that last move. Where the store is away nobody waits: it is written when it is back."""
        self.moved(state)
        if self._writer is None:
            return
        behind = asyncio.create_task(self._behind.wait())
        await asyncio.wait({self._writer, behind}, timeout=5 * PERIOD_S, return_when=asyncio.FIRST_COMPLETED)
        behind.cancel()
        if not self._writer.done():
            log.warning("the end of a session is written later", extra={"session_id": self.record.id})

    async def _write(self) -> None:
        while not (self.record.state.ended and not self._moves):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_S):
                    await self._changed.wait()
            self._changed.clear()
            try:
                async with self._writing:
                    await self._flush()
                self._behind.clear()
            except LeaseLost as lost:
                # Once it may have lapsed, while Redis was away or we were slow; if it cannot be taken back, another has it.
                if self._lapsed:
                    self.refusal = lost
                    return
                self._lapsed = True
                self._changed.set()
            except ServiceError as error:
                if error.reason == "STORE_UNAVAILABLE":
                    self._behind.set()
                    await asyncio.sleep(PERIOD_S)
                    self._changed.set()
                elif error.reason == "SESSION_NOT_FOUND":
                    if self.record.state.ended:
                        return
                    await self._restore()
                else:
                    # The record was ended by somebody else, and nothing leaves an ended state.
                    log.warning("session record: %s", error, extra={"session_id": self.record.id})
                    self.refusal = error
                    return

    async def _flush(self) -> None:
        await self._hold()
        while self._moves:
            await self._move(self._moves[0], self._token)
            self._moves.pop(0)
        if not self.record.state.ended:
            record = self.record
            to_next_day = await self._store.touch(
                record.id, self._token, block=record.block, frame=record.frame, expire_time=self._expiry(),
                attached=self.attached, quotas=self.quotas, denoiser=record.denoiser, decoder=record.decoder,
            )  # fmt: skip
            if to_next_day is not None:
                self.refusal = minutes_used_up(record.tenant, self.quotas, to_next_day)

    async def _hold(self) -> None:
        """Renew the lease, or take back one that lapsed. Raises `LeaseLost` where another was given it."""
        if not self._lapsed:
            try:
                return await self._leases.renew(self.record.id, self._token, LEASE_MS)
            except LeaseLost:
                self._lapsed = True
        self._token = await self._leases.take_back(self.record.id, self._owner, self._token, LEASE_MS)
        self.record = dataclasses.replace(self.record, token=self._token)
        self._lapsed = False

    async def _move(self, state: SessionState, token: int) -> None:
        record = self.record
        try:
            await self._store.move(
                record.id, state, token=token, attached=self.attached, block=record.block, frame=record.frame,
                denoiser=record.denoiser, decoder=record.decoder,
            )  # fmt: skip
        except IllegalMove as error:
            # A move whose reply was lost was made all the same.
            if error.current is not state:
                raise

    async def _restore(self) -> None:
        """Redis came back without the record."""
        told = len(self._moves)
        try:
            await self._store.restore(dataclasses.replace(self.record, expire_time=self._expiry()))
            del self._moves[:told]
            self._lapsed = True
        except ServiceError as error:
            log.warning("session record: %s", error, extra={"session_id": self.record.id})

    def _expiry(self) -> float:
        """A while past what the Gateway's own timers allow, so that only a Gateway that died leaves it to the sweep."""
        detached = self.record.state is SessionState.DETACHED
        rest = self._limits.detached_timeout_s if detached else self._limits.idle_timeout_s
        return time.time() + rest + LEASE_MS / 1000
