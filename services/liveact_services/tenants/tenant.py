"""A tenant: whose sessions and avatars they are, what it may use, and how it is served."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from liveact_services.tenants.rules import Consent, Portraits

DEFAULT_POOL = "default"
"""The Denoisers of `ServiceConfig.denoiser`."""

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
"""Lower-case letters, digits and hyphens, 63 at most: it stands in Redis keys and resource names."""


class Strict(BaseModel):
    """Frozen; unknown fields and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Quotas(Strict):
    """What a tenant may use at most; None is no limit."""

    sessions: Annotated[int, Field(ge=0)] | None = None
    """Sessions that have not ended, detached ones included."""
    streams: Annotated[int, Field(ge=0)] | None = None
    """Sessions with a client attached."""
    width: Annotated[int, Field(ge=16)] | None = None
    """Widest picture, in pixels."""
    height: Annotated[int, Field(ge=16)] | None = None
    """Highest picture, in pixels."""
    minutes_per_day: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Minutes of video made in a UTC day."""
    requests_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Calls begun, streams and unary calls alike, on average."""
    burst: Annotated[int, Field(ge=1)] | None = None
    """Calls that may come at once; None: a second's worth."""

    @property
    def request_burst(self) -> float:
        """Size of the token bucket; at least 1, or no call would ever pass."""
        return self.burst or max(1.0, self.requests_per_second or 1.0)


UNLIMITED = Quotas()


class Tenant(Strict):
    """One tenant, as the directory describes it."""

    id: Slug
    name: Annotated[str, StringConstraints(max_length=128)] = ""
    quotas: Quotas = UNLIMITED
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Share of a contended Denoiser, relative to other tenants'."""
    pool: Slug = DEFAULT_POOL
    """The Denoisers that serve it: "default", or one of `ServiceConfig.pools`."""
    portraits: Portraits = "any"
    """Which it may use; with `consent`, no laxer than `ServiceConfig.trust`."""
    consent: Consent = "optional"
    """Whether portraits that it sends need a consent reference."""
    visible_watermark: bool = False
    """Whether its pictures carry the service's label, also where `ServiceConfig.trust` does not ask for it."""
    invisible_watermark: bool = False
    """The same of the hidden beginning of the session's id."""
    disabled: bool = False
    """Its calls are refused and its sessions end; its avatars stay."""


DEFAULT_TENANT = Tenant(id="default")
"""Whose everything is where no directory is configured."""
