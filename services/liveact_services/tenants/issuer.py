"""Issuers of tokens: whose JWTs are accepted, and what of a token is checked."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

import jwt
from pydantic import AfterValidator, Field, StringConstraints

from liveact_services.errors import ServiceError, fail
from liveact_services.tenants.tenant import Strict

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Asymmetric ones only: with a shared secret whoever verifies tokens could make them."""

MAX_TOKEN_BYTES = 8192
MAX_SUBJECT = 255
"""Characters of a subject, as OpenID Connect has it; what is beyond is cut off."""

_Text = Annotated[str, StringConstraints(min_length=1, max_length=512)]


def _source(place: str) -> str:
    parts = urlsplit(place)
    if "@" in parts.netloc:
        raise ValueError("expected a URL without user and password: it stands in logs")
    if parts.scheme == "" or (parts.scheme == "https" and parts.hostname):
        return place
    if parts.scheme == "http" and _is_loopback(parts.hostname or ""):
        return place
    raise ValueError(
        "expected a path or an https:// URL; http:// only on this machine: keys on the way could be exchanged"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Holder(NamedTuple):
    """Whose token it is."""

    tenant: str
    subject: str
    """Its `sub`; empty where it has none."""


class Issuer(Strict):
    """Whose tokens are accepted, under which conditions."""

    issuer: _Text
    """The token's `iss`, exactly."""
    audience: _Text
    """What must be among the token's `aud`."""
    algorithms: Annotated[list[Algorithm], Field(min_length=1)]
    jwks: Annotated[_Text, AfterValidator(_source)]
    """The issuer's public keys (RFC 7517): a file, relative to the directory's folder, or a URL."""
    tenant_claim: _Text = "tenant"
    """The claim that holds the tenant's id."""
    leeway_s: Annotated[float, Field(ge=0, le=300)] = 30.0
    """How far its clock and ours may be apart."""

    @property
    def remote(self) -> bool:
        """Whether the keys are fetched and not read."""
        return self.jwks.startswith(("https://", "http://"))

    def verify(self, token: str, key: jwt.PyJWK) -> Holder:
        """Whom a token names, once signature, issuer, audience and times hold.

        Raises `ServiceError`: CREDENTIALS_INVALID, CREDENTIALS_EXPIRED.
        """
        try:
            claims = jwt.decode(
                token, key, algorithms=list(self.algorithms), audience=self.audience, issuer=self.issuer,
                leeway=self.leeway_s, options={"require": ["exp", "iss", "aud"]},
            )  # fmt: skip
        # The texts are our own: who is not told apart below learns nothing from a wrong token.
        except jwt.ExpiredSignatureError:
            raise fail("CREDENTIALS_EXPIRED", "the token has expired") from None
        except jwt.ImmatureSignatureError:
            raise fail("CREDENTIALS_INVALID", "the token is not valid yet") from None
        except jwt.InvalidAudienceError:
            raise fail("CREDENTIALS_INVALID", "the token is for another audience") from None
        except jwt.MissingRequiredClaimError as error:
            raise fail("CREDENTIALS_INVALID", f"the token lacks the claim {error.claim}") from None
        except jwt.PyJWTError:
            raise rejected() from None
        tenant = claims.get(self.tenant_claim)
        if not isinstance(tenant, str):
            raise fail("CREDENTIALS_INVALID", f"the token's claim {self.tenant_claim!r} names no tenant")
        subject = claims.get("sub")
        return Holder(tenant, subject[:MAX_SUBJECT] if isinstance(subject, str) else "")


def unverified(token: str) -> tuple[Mapping[str, Any], str]:
    """A token's header, and the issuer it claims to be from: what finds the key that verifies it. Raises `ServiceError`."""
    if len(token) > MAX_TOKEN_BYTES:
        raise rejected()
    try:
        header = jwt.get_unverified_header(token)
        issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
    except jwt.PyJWTError:
        raise rejected() from None
    if not isinstance(issuer, str):
        raise rejected()
    return header, issuer


def rejected() -> ServiceError:
    """One text for whatever is wrong before a signature holds."""
    return fail("CREDENTIALS_INVALID", "the API key or token is not accepted")
