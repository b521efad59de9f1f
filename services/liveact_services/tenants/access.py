"""Who is calling: a call's metadata -> its tenant, by API key or JWT."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from liveact_services.errors import ServiceError, fail
from liveact_services.tenants.api_key import ApiKey, key_id, key_matches
from liveact_services.tenants.directory import TenantDirectory
from liveact_services.tenants.issuer import Issuer, rejected, unverified
from liveact_services.tenants.key_set import KeySet
from liveact_services.tenants.tenant import DEFAULT_TENANT, Tenant
from liveact_services.tenants.watch import DirectoryWatch

BEARER = "bearer "
Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True)
class Caller:
    """Who called, and by what: enough to ask later whether it still may."""

    tenant: Tenant
    """As it was when it called."""
    key: str = ""
    """Id of its API key, if it has one."""
    issuer: str = ""
    """Who issued its token, if it has one."""
    subject: str = ""
    """Whom the token was issued to."""


ANYBODY = Caller(DEFAULT_TENANT)
"""The caller where nobody is asked for anything."""


class Access:
    """Lets callers in. Without a directory there is one tenant, and nobody is asked for anything."""

    def __init__(self, watch: DirectoryWatch | None, *, clock: Callable[[], float] = time.time) -> None:
        self._watch, self._clock = watch, clock
        self._key_sets: dict[str, KeySet] = {}

    async def caller(self, metadata: Metadata) -> Caller:
        """Whose call this is. Raises `ServiceError` CREDENTIALS_..., TENANT_... or AUTHENTICATION_UNAVAILABLE."""
        if self._watch is None:
            return ANYBODY
        credential = credential_in(metadata)
        if key_id(credential) is not None:
            return self._by_key(credential, self._watch.current)
        if credential.count(".") == 2:
            return await self._by_token(credential, self._watch)
        raise rejected()

    def check(self, caller: Caller) -> Tenant:
        """The caller's tenant as it is now. Raises `ServiceError` when the caller would not be let in any more.

        A token's own end is not looked at: it says how long it opens streams, not how long they last.
        """
        if self._watch is None:
            return caller.tenant
        directory = self._watch.current
        if caller.issuer and caller.issuer not in directory.issuers:
            raise fail("CREDENTIALS_REVOKED", "tokens of this issuer are accepted no more")
        if caller.key:
            key, tenant = directory.keys.get(caller.key, (None, ""))
            if key is None or tenant != caller.tenant.id:
                raise fail("CREDENTIALS_REVOKED", f"API key {caller.key} is withdrawn")
            self._require_valid(key)
        return _tenant(directory, caller.tenant.id)

    def _by_key(self, text: str, directory: TenantDirectory) -> Caller:
        key, tenant = directory.keys.get(key_id(text) or "", (None, ""))
        if not key_matches(text, key) or key is None:
            raise rejected()
        self._require_valid(key)
        return Caller(_tenant(directory, tenant), key=key.id)

    async def _by_token(self, token: str, watch: DirectoryWatch) -> Caller:
        header, name = unverified(token)
        trusted = watch.current.issuers
        issuer = trusted.get(name)
        algorithm, kid = header.get("alg"), header.get("kid")
        if issuer is None or algorithm not in issuer.algorithms or not isinstance(kid, str | None):
            raise rejected()
        key = await self._key_set(issuer, trusted.values()).key(kid, algorithm)
        if key is None:
            raise rejected()
        holder = issuer.verify(token, key)
        # The directory may be another by now.
        return Caller(_tenant(watch.current, holder.tenant), issuer=name, subject=holder.subject)

    def _key_set(self, issuer: Issuer, trusted: Iterable[Issuer]) -> KeySet:
        if issuer.jwks not in self._key_sets:
            places = {other.jwks for other in trusted}
            self._key_sets = {place: keys for place, keys in self._key_sets.items() if place in places}
            # A file is looked at again soon: reading it costs nobody anything.
            keys = KeySet(issuer.jwks) if issuer.remote else KeySet(issuer.jwks, floor_s=1.0, max_age_s=5.0)
            self._key_sets[issuer.jwks] = keys
        return self._key_sets[issuer.jwks]

    def _require_valid(self, key: ApiKey) -> None:
        if key.revoked:
            raise fail("CREDENTIALS_REVOKED", f"API key {key.id} is revoked")
        if key.expired(self._clock()):
            raise fail("CREDENTIALS_EXPIRED", f"API key {key.id} has expired")


def credential_in(metadata: Metadata) -> str:
    """The API key or token of a call: `authorization: Bearer ...` or `x-api-key: ...`. Raises `ServiceError`."""
    found = []
    for name, value in metadata:
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        if name == "x-api-key":
            found.append(text.strip())
        elif name == "authorization":
            if text[: len(BEARER)].lower() != BEARER:
                raise fail("CREDENTIALS_INVALID", "authorization is of another scheme; accepted is Bearer")
            found.append(text[len(BEARER) :].strip())
    if not found:
        raise fail("CREDENTIALS_MISSING", "no credentials; send authorization: Bearer KEY-OR-TOKEN, or x-api-key: KEY")
    if len(found) > 1:
        raise fail("CREDENTIALS_INVALID", f"{len(found)} credentials; accepted is one, as authorization or x-api-key")
    return found[0]


def _tenant(directory: TenantDirectory, tenant_id: str) -> Tenant:
    tenant = directory.tenants.get(tenant_id)
    if tenant is None:
        raise fail("TENANT_UNKNOWN", "the caller is no tenant of this service")
    if tenant.disabled:
        raise fail("TENANT_DISABLED", "the caller's tenant is disabled")
    return tenant


def is_about_credential(error: ServiceError) -> bool:
    """Whether the key or token was refused and not its tenant."""
    return error.reason.startswith("CREDENTIALS_")
