"""Rules of trust: which portraits a tenant may use, whether it has to name a consent, and what its pictures carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from liveact_services.watermark.corner import Corner

if TYPE_CHECKING:
    from liveact_services.tenants.tenant import Tenant

Portraits = Literal["any", "registered", "none"]
"""any: sent with a stream, or made to an avatar before; registered: avatars only, which the tenant may make; none: avatars only,
and no new ones."""
Consent = Literal["optional", "required"]
"""Whether a portrait that is sent needs a reference to the consent of the person shown."""
STRICTER: tuple[Portraits, ...] = ("any", "registered", "none")


class TrustConfig(BaseModel):
    """What holds for every tenant; a tenant's own entry in the directory can only be stricter (docs/trust.md)."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    portraits: Portraits = "any"
    """any: portraits sent with a stream, and avatars; registered: avatars only; none: avatars only, and no new ones."""
    consent: Consent = "optional"
    """Whether every portrait that is sent needs a consent reference."""
    visible_watermark: bool = False
    """Whether every session's pictures carry `label`; where not, a tenant's entry or a client may ask for it."""
    invisible_watermark: bool = False
    """The same of the hidden beginning of the session's id."""
    label: Annotated[str, Field(min_length=1, max_length=40)] = "AI-generated"
    """The words; "AI" where they do not fit the picture's width."""
    corner: Corner = "bottom-right"
    """Where they stand."""


@dataclass(frozen=True)
class Rules:
    """What holds for one tenant."""

    portraits: Portraits = "any"
    consent: Consent = "optional"
    visible_watermark: bool = False
    invisible_watermark: bool = False

    @classmethod
    def of(cls, service: TrustConfig, tenant: Tenant) -> Rules:
        """The service's and the tenant's, whichever is stricter."""
        return cls(
            portraits=max(service.portraits, tenant.portraits, key=STRICTER.index),
            consent="required" if "required" in (service.consent, tenant.consent) else "optional",
            visible_watermark=service.visible_watermark or tenant.visible_watermark,
            invisible_watermark=service.invisible_watermark or tenant.invisible_watermark,
        )


FREE = Rules()
"""Nothing is forbidden or asked."""
