"""What of the audit trail is kept, and where."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class AuditConfig(BaseModel):
    """The audit trail (docs/trust.md)."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    store: bool = True
    """Whether events are kept in Redis, where `liveact audit` reads them."""
    log: bool = True
    """Whether each event is a line of the Gateway's log as well, at once and whatever Redis does."""
    peers: bool = True
    """Whether events tell the network address that called."""
    keep_events: Annotated[int, Field(ge=100)] = 100_000
    """Events of each tenant in Redis, some 500 bytes each; the oldest go first."""
    keep_days: Annotated[float, Field(gt=0, le=36500)] = 90
    """How long they stay there."""
