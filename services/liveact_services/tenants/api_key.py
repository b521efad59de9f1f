"""API keys: "la_{key id}_{secret}". The directory keeps a hash, so who reads it cannot call.

A plain SHA-256 is enough and a slow hash would only cost time: slow hashes make guessing dear where people chose the secret,
and nobody guesses 256 random bits.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import datetime
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, StringConstraints

from liveact_services.tenants.tenant import Strict

_KEY = re.compile(r"la_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NOBODYS = hashlib.sha256(secrets.token_bytes(32)).hexdigest()


def _moment(value: Any) -> Any:
    # YAML reads an unquoted timestamp itself, and strict mode would refuse a quoted one.
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        moment = None
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ValueError("expected a time with its zone, as 2027-01-31T00:00:00Z")
    return moment


class ApiKey(Strict):
    """What the directory knows of a key."""

    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$")]
    """The part of the key that finds it; not secret."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """Of the whole key, in hex."""
    expires: Annotated[datetime, BeforeValidator(_moment)] | None = None
    revoked: bool = False

    def expired(self, now: float) -> bool:
        """Whether its time has passed; `now` in seconds since the epoch."""
        return self.expires is not None and self.expires.timestamp() <= now

    def yaml(self) -> str:
        """The line of the directory that admits it."""
        return f'- {{id: "{self.id}", sha256: "{self.sha256}"}}'


class NewKey(NamedTuple):
    """A key as it is shown once, and what is kept of it."""

    text: str
    stored: ApiKey


def new_api_key() -> NewKey:
    """A key with 256 random bits."""
    key_id = secrets.token_hex(6)
    text = f"la_{key_id}_{secrets.token_urlsafe(32)}"
    return NewKey(text, ApiKey(id=key_id, sha256=key_hash(text)))


def key_hash(text: str) -> str:
    """What is stored of a key: SHA-256 in hex."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def key_id(text: str) -> str | None:
    """The id in a key, unverified; None for what is no API key."""
    found = _KEY.fullmatch(text)
    return found[1] if found else None


def key_matches(text: str, key: ApiKey | None) -> bool:
    """Compared in constant time. A key that is not there takes as long as a wrong one."""
    return hmac.compare_digest(key_hash(text), key.sha256 if key is not None else _NOBODYS)
