"""Resume tokens: "{session id}.{secret}". The store keeps a hash, so who reads the store cannot resume."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from liveact_services.errors import fail
from liveact_services.sessions.names import is_id


def new_resume_token(session_id: str) -> str:
    """A token with 256 random bits. It is shown once, in the stream's first message."""
    return f"{session_id}.{secrets.token_urlsafe(32)}"


def token_hash(token: str) -> str:
    """What is stored of it. The secret is random, so a plain hash withstands guessing."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def token_session(token: str) -> str:
    """The id of the session a token speaks of, unverified. Raises RESUME_TOKEN_INVALID."""
    session_id, dot, secret = token.partition(".")
    if not (dot and secret and is_id(session_id)):
        raise fail("RESUME_TOKEN_INVALID", "the resume token is malformed")
    return session_id


def token_matches(token: str, stored_hash: str) -> bool:
    """Compared in constant time; nothing matches an empty hash."""
    return hmac.compare_digest(token_hash(token).encode(), stored_hash.encode())
