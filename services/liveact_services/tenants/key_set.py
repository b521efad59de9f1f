"""An issuer's public keys (JWKS): fetched off the event loop, remembered, and fetched again when a token names a new one."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt

from liveact_services.errors import fail
from liveact_services.independent import independent

FLOOR_S = 10.0
"""Least time between two fetches: tokens with made-up key ids must not hammer the issuer."""
MAX_AGE_S = 300.0
"""A withdrawn key is forgotten that long after the issuer forgot it."""
TIMEOUT_S = 5.0
MAX_BYTES = 256 * 1024
MIN_RSA_BITS = 2048

_KINDS = {
    "RS256": "RSA", "RS384": "RSA", "RS512": "RSA", "PS256": "RSA", "PS384": "RSA", "PS512": "RSA",
    "ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519",
}  # fmt: skip
"""Which keys an algorithm takes, by curve where that decides."""

log = logging.getLogger(__name__)


class KeySetError(ValueError):
    """The keys cannot be had; the message says where and why."""


class KeySet:
    """The keys at one place. What was read last stays in force while newer ones cannot be had."""

    def __init__(
        self,
        source: str,
        *,
        read: Callable[[str], bytes] | None = None,
        now: Callable[[], float] = time.monotonic,
        floor_s: float = FLOOR_S,
        max_age_s: float = MAX_AGE_S,
    ) -> None:
        self.source = source
        self._read, self._now, self._floor_s, self._max_age_s = read or read_source, now, floor_s, max_age_s
        self._keys: list[dict[str, Any]] | None = None
        self._tried: float | None = None
        self._refreshing: asyncio.Task[None] | None = None

    async def key(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key of that id for this algorithm; without an id the only one that fits. None where there is none.

        Raises `ServiceError` AUTHENTICATION_UNAVAILABLE when no keys were ever read.
        """
        found = self._find(kid, algorithm)
        age = self._max_age_s if self._tried is None else self._now() - self._tried
        if found is not None:
            if age >= self._max_age_s:
                self._refresh()
            return found
        if self._refreshing is not None or self._tried is None or age >= self._floor_s:
            # Shielded: the caller may hang up, others wait for the same keys.
            await asyncio.shield(self._refresh())
        if self._keys is None:
            raise fail(
                "AUTHENTICATION_UNAVAILABLE", "the keys that verify tokens cannot be fetched",
                retry_after_s=self._floor_s,
            )  # fmt: skip
        return self._find(kid, algorithm)

    def _find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        fitting = [
            key for key in self._keys or ()
            if (kid is None or key.get("kid") == kid) and fits(key, algorithm)
        ]  # fmt: skip
        return jwt.PyJWK.from_dict(fitting[0], algorithm) if len(fitting) == 1 else None

    def _refresh(self) -> asyncio.Task[None]:
        if self._refreshing is None:
            self._refreshing = independent(self._load())
        return self._refreshing

    async def _load(self) -> None:
        self._tried = self._now()
        try:
            self._keys = parse_key_set(await asyncio.to_thread(self._read, self.source), self.source)
        except KeySetError as error:
            log.warning("%s; %s", error, "the keys read before stay in force" if self._keys else "no token is accepted")
        finally:
            self._refreshing = None


def fits(key: dict[str, Any], algorithm: str) -> bool:
    """Whether this JWK may verify a token of that algorithm."""
    if key.get("use", "sig") != "sig" or key.get("alg", algorithm) != algorithm:
        return False
    return _KINDS.get(algorithm) in (key["kty"], key.get("crv"))


def parse_key_set(data: bytes, source: str) -> list[dict[str, Any]]:
    """The public keys of a JWKS that tokens may be verified with. Raises `KeySetError`, also where there is none."""
    try:
        document = json.loads(data)
    except ValueError:
        raise KeySetError(f"{source}: not JSON") from None
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise KeySetError(f'{source}: expected a JWKS, an object with a list "keys"')
    keys = [key for key in listed if isinstance(key, dict) and _is_usable(key, source)]
    if not keys:
        raise KeySetError(f"{source}: no public key that verifies tokens; accepted are RSA, EC and Ed25519 keys")
    return keys


def _is_usable(key: dict[str, Any], source: str) -> bool:
    algorithm = next((name for name in _KINDS if key.get("kty") and fits(key, name)), None)
    if algorithm is None:
        return False
    try:
        loaded = jwt.PyJWK.from_dict(key, algorithm).key
    except jwt.PyJWTError as error:
        log.warning("%s: a key is left out: %s", source, type(error).__name__)
        return False
    if "d" in key:
        log.warning("%s: a key is left out: it is private, and whoever reads it can make tokens", source)
        return False
    if (bits := getattr(loaded, "key_size", MIN_RSA_BITS)) < MIN_RSA_BITS and key["kty"] == "RSA":
        log.warning("%s: a key is left out: an RSA key of %d bits; accepted are %d", source, bits, MIN_RSA_BITS)
        return False
    return True


def read_source(source: str) -> bytes:
    """The bytes of a file or URL. Blocks. Raises `KeySetError`."""
    try:
        if not source.startswith(("https://", "http://")):
            data = Path(source).read_bytes()
        else:
            opener = urllib.request.build_opener(_NoRedirect)
            with opener.open(source, timeout=TIMEOUT_S) as answer:
                data = answer.read(MAX_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
        raise KeySetError(f"{source}: cannot be read ({why})") from None
    if len(data) > MAX_BYTES:
        raise KeySetError(f"{source}: more than {MAX_BYTES} bytes")
    return data


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Keys come from where the directory says, and by no way that could be less safe."""

    def redirect_request(self, *_: Any) -> None:
        return None
