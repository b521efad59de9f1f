"""Whose face a session shows: the portrait's file, and what is known of it."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from functools import cached_property

from liveact.v1 import avatar_pb2 as pb
from liveact_services.errors import fail
from liveact_services.sessions import AvatarStore, names
from liveact_services.tenants.rules import Rules

MAX_CONSENT = 256
"""Characters of a consent reference."""


@dataclass(frozen=True)
class Source:
    """A portrait's file, as it was sent."""

    image: bytes
    avatar: str = ""
    """Id of the avatar it was made to; empty where it came with the stream."""
    consent: str = ""
    """Where the consent of the person shown is on file, as the caller says."""

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.image).hexdigest()


async def source(config: pb.SessionConfig, avatars: AvatarStore, tenant: str, rules: Rules) -> Source:
    """The portrait that a config asks for. Raises `ServiceError`, also for what the tenant's rules do not allow."""
    consent = consent_text(config.consent)
    match config.WhichOneof("portrait"):
        case "image":
            if rules.portraits != "any":
                raise fail(
                    "PORTRAIT_NOT_ALLOWED", "this tenant may send no portrait with a stream; accepted are its avatars"
                )
            require_consent(consent, rules)
            return Source(config.image, consent=consent)
        case "avatar":
            avatar = names.avatar_id(config.avatar)
            record, image = await avatars.portrait(avatar, tenant)
            consent = consent or record.consent
            require_consent(consent, rules, avatar)
            return Source(image, avatar, consent)
        case _:
            raise fail("PORTRAIT_MISSING", "neither image nor avatar is set")


def require_registering(consent: str, rules: Rules) -> str:
    """The consent of a portrait that is to become an avatar. Raises `ServiceError` where the rules do not allow it."""
    if rules.portraits == "none":
        raise fail("PORTRAIT_NOT_ALLOWED", "this tenant may make no avatars; accepted are those it has", field="image")
    text = consent_text(consent, field="consent")
    require_consent(text, rules, field="consent")
    return text


def consent_text(consent: str, field: str | None = None) -> str:
    """A consent reference with its ends trimmed. Raises CONSENT_INVALID."""
    text = consent.strip()
    if len(text) > MAX_CONSENT:
        raise fail(
            "CONSENT_INVALID", f"a consent reference of {len(text)} characters: accepted are {MAX_CONSENT}", field=field
        )
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in text):
        raise fail("CONSENT_INVALID", "the consent reference holds control characters: accepted is text", field=field)
    return text


def require_consent(consent: str, rules: Rules, avatar: str = "", field: str | None = None) -> None:
    """Raises CONSENT_MISSING."""
    if rules.consent == "required" and not consent:
        what = f"avatars/{avatar} was made without a consent reference" if avatar else "no consent reference"
        raise fail("CONSENT_MISSING", f"{what}; this tenant has to name the consent of the person shown", field=field)
