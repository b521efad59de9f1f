"""A tenant's quotas as Redis keeps them: places that lapse unless renewed, minutes of video a UTC day, a token bucket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from liveact_services.errors import ServiceError, fail
from liveact_services.sessions.database import Database
from liveact_services.sessions.keys import SessionKeys
from liveact_services.tenants.tenant import Quotas, Tenant

HOLD_MS = 30_000
"""A place that is not renewed for so long is free: its Gateway has died, or the call that took it never came to be."""


class RequestQuota:
    """How fast tenants may call. Raises STORE_UNAVAILABLE when Redis is away."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = SessionKeys(database)

    async def spend(self, tenant: Tenant) -> None:
        """Count one call, whatever becomes of it. Raises QUOTA_REQUESTS with the time until the next may come."""
        rate = tenant.quotas.requests_per_second
        if rate is None:
            return
        outcome, rest = await self._database.run(
            "request", [self._keys.requests_of_tenant(tenant.id)], [rate, tenant.quotas.request_burst]
        )
        if outcome == "WAIT":
            raise fail(
                "QUOTA_REQUESTS", f"this tenant may make {rate:g} requests a second",
                quota_subject=f"tenant:{tenant.id}", retry_after_s=float(rest[0]),
            )  # fmt: skip


def daily_ms(quotas: Quotas) -> str:
    """Milliseconds of video a day as the scripts take it."""
    return "" if quotas.minutes_per_day is None else str(round(quotas.minutes_per_day * 60_000))


def minutes_used_up(tenant: str, quotas: Quotas, seconds_left: float) -> ServiceError:
    """QUOTA_MINUTES, to be tried again when the day is over."""
    text = f"this tenant has used its {quotas.minutes_per_day:g} minutes of video of this day (UTC)"
    return fail("QUOTA_MINUTES", text, quota_subject=f"tenant:{tenant}", retry_after_s=seconds_left)


def refusal(outcome: str, rest: Sequence[Any], tenant: str, quotas: Quotas) -> ServiceError | None:
    """The error that an outcome of `admit` or `attach` stands for, if it is about a quota."""
    subject = f"tenant:{tenant}"
    match outcome:
        case "SESSIONS":
            text = f"this tenant has its {quotas.sessions} sessions; close one first"
            return fail("QUOTA_SESSIONS", text, quota_subject=subject)
        case "STREAMS":
            text = f"this tenant has its {quotas.streams} streams at once; end one first"
            return fail("QUOTA_STREAMS", text, quota_subject=subject)
        case "MINUTES":
            return minutes_used_up(tenant, quotas, float(rest[0]))
        case _:
            return None
