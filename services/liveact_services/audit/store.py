"""The trail in Redis: a stream a tenant, chained, trimmed by age and number."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from liveact_services.audit.chain import BEGINNING, Head, Kept, chained
from liveact_services.audit.config import AuditConfig
from liveact_services.sessions.database import Database

if TYPE_CHECKING:
    from liveact_services.audit.event import AuditEvent

PAGE = 1000
SLACK_S = 60.0
"""How far clocks may be apart when events are looked for by time."""
DAY_S = 86400.0
TRIES = 20


class AuditStore:
    """Every method raises STORE_UNAVAILABLE when Redis is away."""

    def __init__(self, database: Database, config: AuditConfig, *, clock: Callable[[], float] = time.time) -> None:
        self._database, self._config, self._clock = database, config, clock
        self._heads: dict[str, Head] = {}
        """Where each chain ended when it was last looked at."""
        self.lost: list[str] = []
        """Tenants whose chain was found gone though this process had written to it."""

    async def append(self, tenant: str, events: Sequence[AuditEvent]) -> None:
        """Chain the events to the tenant's. Other Gateways do so too: who comes second chains to what the first wrote."""
        stream, head_key, tenants = self._keys(tenant)
        head = self._heads.get(tenant, BEGINNING)
        for _ in range(TRIES):
            lines = [event.line(number=head.number + i) for i, event in enumerate(events)]
            after, kept = chained(head, lines)
            outcome, rest = await self._database.run(
                "audit",
                [stream, head_key, tenants],
                [
                    "" if head == BEGINNING else head.text(), after.text(), self._config.keep_events,
                    round((self._clock() - self._config.keep_days * DAY_S) * 1000), round(self._config.keep_days * DAY_S),
                    tenant, *(text for one in kept for text in (one.line, one.hash)),
                ],
            )  # fmt: skip
            if outcome == "OK":
                self._heads[tenant] = after
                return
            found = Head.read(rest[0].decode())
            if found == BEGINNING and head != BEGINNING:
                self.lost.append(tenant)
            head = found
        raise RuntimeError(f"{TRIES} times another Gateway wrote to the trail of {tenant!r} first")

    async def tenants(self) -> list[str]:
        """Those of whom there are events, or were."""
        found = await self._database.call(self._database.client.smembers(self._database.key("audit", "tenants")))
        return sorted(name.decode() for name in found)

    async def read(self, tenant: str, since: float = 0.0) -> tuple[list[Kept], Head]:
        """The tenant's events from about that moment on, the oldest first, and where its chain ends."""
        client = self._database.client
        stream, head_key, _ = self._keys(tenant)
        # Read first: what is written meanwhile must not look as if it were missing.
        head = Head.read((await self._database.call(client.get(head_key)) or b"").decode())
        kept: list[Kept] = []
        start = str(max(0, round((since - SLACK_S) * 1000)))
        while True:
            page = await self._database.call(client.xrange(stream, min=start, count=PAGE))
            kept += [Kept(fields[b"event"].decode(), fields[b"hash"].decode()) for _, fields in page]
            if len(page) < PAGE:
                break
            start = f"({page[-1][0].decode()}"
        while kept and kept[-1].hash != head.hash and _number(kept[-1]) >= head.number:
            kept.pop()
        return kept, head

    def _keys(self, tenant: str) -> tuple[str, str, str]:
        key = self._database.key
        return key("tenant", tenant, "audit"), key("tenant", tenant, "audit", "head"), key("audit", "tenants")


def _number(one: Kept) -> int:
    try:
        return int(one.fields["number"])
    except (ValueError, KeyError, TypeError):
        return -1
