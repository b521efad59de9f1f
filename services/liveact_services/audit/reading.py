"""The trail as it is read: every tenant's events, and whether their chain holds."""

from __future__ import annotations

import datetime
import re
from typing import Any

from liveact_models.config import ConfigError
from liveact_services.audit.chain import faults
from liveact_services.audit.store import AuditStore

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


async def read_trails(store: AuditStore, tenant: str | None = None, since: float = 0.0) -> list[dict[str, Any]]:
    """Of each tenant, or of the one named: `tenant`, `events` since that moment and `faults` of what was read.

    An event that was written twice, because the answer to the first writing was lost, is told once. Raises STORE_UNAVAILABLE.
    """
    trails = []
    for name in await store.tenants() if tenant is None else [tenant]:
        kept, head = await store.read(name, since)
        events: dict[str, dict[str, Any]] = {}
        for one in kept:
            try:
                fields = one.fields
                if fields["time"] >= since:
                    events.setdefault(fields["id"], fields)
            except (ValueError, KeyError, TypeError):
                continue
        trails.append({"tenant": name, "events": list(events.values()), "faults": faults(kept, head)})
    return trails


def moment(text: str, now: float) -> float:
    """ "90m", "2h", "7d": so long ago; else a day or time by ISO 8601, in UTC unless it says otherwise. Raises `ConfigError`."""
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text):
        return now - float(found[1]) * _UNITS[found[2]]
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"{text!r}: accepted are 90m, 2h or 7d, and a time as 2026-11-23 or 2026-11-23T14:00:00Z"
        ) from None
    return (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).timestamp()
