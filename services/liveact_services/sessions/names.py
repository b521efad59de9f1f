"""Resource names and ids: "sessions/{id}" and "avatars/{id}"."""

from __future__ import annotations

import re
import secrets

from liveact_services.errors import fail

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


def new_id() -> str:
    """64 random bits in hex: an id is public, so it need not be secret, only unique."""
    return secrets.token_hex(8)


def session_name(session_id: str) -> str:
    return f"sessions/{session_id}"


def avatar_name(avatar_id: str) -> str:
    return f"avatars/{avatar_id}"


def session_id(name: str) -> str:
    """The id in "sessions/{id}". Raises SESSION_NAME_INVALID."""
    return _id_in(name, "sessions", "SESSION_NAME_INVALID")


def avatar_id(name: str) -> str:
    """The id in "avatars/{id}". Raises AVATAR_NAME_INVALID."""
    return _id_in(name, "avatars", "AVATAR_NAME_INVALID")


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def _id_in(name: str, collection: str, reason: str) -> str:
    head, _, tail = name.partition("/")
    if head != collection or not is_id(tail):
        raise fail(reason, f"{name[:80]!r} is not a name here; accepted is {collection}/{{id}}")
    return tail
