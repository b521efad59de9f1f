"""Events on their way: into the log at once, into Redis as soon as it takes them. Who records one never waits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from liveact_services.audit.config import AuditConfig
from liveact_services.audit.event import REFUSALS, Action, AuditEvent
from liveact_services.audit.store import AuditStore
from liveact_services.errors import ServiceError
from liveact_services.observability.meter import METER
from liveact_services.observability.metrics import AUDIT_EVENTS, AUDIT_WAITING

GATHER_S = 0.1
"""Events of so long go to Redis together."""
RETRY_S = 1.0
MAX_WAITING = 20_000
"""Events kept here while Redis is away, some 10 MB; then newer ones are in the log only."""
BATCH = 200
REFUSALS_A_SECOND, REFUSALS_AT_ONCE = 10.0, 100.0
"""Of each tenant, and of strangers together: refusals beyond are counted and told with the next."""

log = logging.getLogger(__name__)


class AuditTrail:
    """This Gateway's part of the trail. `record` is to be called from the event loop."""

    def __init__(
        self, store: AuditStore | None, config: AuditConfig, gateway: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        """`store`: None where events go to the log only."""
        self.config = config
        self._store, self._gateway, self._clock = store, gateway, clock
        self._waiting: dict[str, list[AuditEvent]] = {}
        self._count = 0
        self._missing: dict[str, int] = {}
        self._buckets: dict[str, tuple[float, float, int]] = {}
        """Of each tenant's refusals: room left, when that was, and how many were not told since."""
        self._some = asyncio.Event()
        self._behind = False

    @property
    def waiting(self) -> int:
        """Events that are not in Redis yet."""
        return self._count

    def record(self, action: Action, tenant: str, **fields: Any) -> None:
        """This happened now. Never waits and never raises."""
        untold = 0
        if action in REFUSALS:
            told, untold = self._refusal(tenant)
            if not told:
                METER.record(AUDIT_EVENTS, outcome="untold")
                return
        event = AuditEvent(action, tenant, round(self._clock(), 3), self._gateway, count=untold or None, **fields)
        if self.config.log:
            log.info("audit %s", event.line(), extra={"session_id": event.session} if event.session else None)
        if self._store is not None:
            self._keep(event)

    async def run(self) -> None:
        """Write to Redis what is recorded, for ever."""
        while True:
            await self._some.wait()
            await asyncio.sleep(GATHER_S)
            self._some.clear()
            while self._waiting:
                tenant = next(iter(self._waiting))
                if not await self._written(tenant):
                    await asyncio.sleep(RETRY_S)

    async def flush(self, within_s: float) -> None:
        """Wait until everything is written, so long at most."""
        until = time.monotonic() + within_s
        while self._count and time.monotonic() < until:
            await asyncio.sleep(GATHER_S / 2)

    def _keep(self, event: AuditEvent) -> None:
        if self._count >= MAX_WAITING:
            if not self._missing:
                log.error("%d audit events wait for the session store: newer ones are in this log only", self._count)
            self._missing[event.tenant] = self._missing.get(event.tenant, 0) + 1
            METER.record(AUDIT_EVENTS, outcome="dropped")
            return
        self._waiting.setdefault(event.tenant, []).append(event)
        self._changed(1)
        self._some.set()

    async def _written(self, tenant: str) -> bool:
        """Whether the tenant's next events are in Redis."""
        assert self._store is not None
        batch = self._waiting[tenant][:BATCH]
        try:
            await self._store.append(tenant, batch)
        except Exception as error:
            if not self._behind:
                self._behind = True
                if isinstance(error, ServiceError):
                    log.error("audit events wait for the session store: %s", error)
                else:
                    log.exception("audit events cannot be written, and are tried again")
            # Another tenant's may go through.
            self._waiting[tenant] = self._waiting.pop(tenant)
            return False
        if self._behind:
            self._behind = False
            log.warning("audit events are written again")
        for lost in self._store.lost:
            log.error("the audit trail of tenant %r was gone from the session store; it begins anew", lost)
        self._store.lost.clear()
        METER.record(AUDIT_EVENTS, len(batch), outcome="kept")
        if len(self._waiting[tenant]) == len(batch):
            del self._waiting[tenant]
        else:
            del self._waiting[tenant][: len(batch)]
        self._changed(-len(batch))
        self._tell_missing()
        return True

    def _tell_missing(self) -> None:
        missing, self._missing = self._missing, {}
        for tenant, count in missing.items():
            gap = AuditEvent(Action.GAP, tenant, round(self._clock(), 3), self._gateway, count=count)
            self._waiting.setdefault(tenant, []).append(gap)
            self._changed(1)

    def _changed(self, by: int) -> None:
        self._count += by
        METER.record(AUDIT_WAITING, self._count)

    def _refusal(self, tenant: str) -> tuple[bool, int]:
        """Whether one more refusal of the tenant is told, and how many before it were not."""
        now = self._clock()
        room, at, untold = self._buckets.get(tenant, (REFUSALS_AT_ONCE, now, 0))
        room = min(REFUSALS_AT_ONCE, room + (now - at) * REFUSALS_A_SECOND)
        told = room >= 1
        self._buckets[tenant] = (room - told, now, 0 if told else untold + 1)
        return told, untold
