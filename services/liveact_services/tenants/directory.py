"""The directory: every tenant, its keys, and the issuers whose tokens are accepted, as read from YAML."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from liveact_models.config import ConfigError
from liveact_services.tenants.api_key import ApiKey
from liveact_services.tenants.issuer import Issuer
from liveact_services.tenants.tenant import DEFAULT_POOL, Quotas, Strict, Tenant

# The C loader is three times as fast: two seconds for ten thousand tenants.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class DirectoryError(ConfigError):
    """A directory that is not accepted. The message names the place in it and never what may be secret."""


class _Entry(Tenant):
    keys: list[ApiKey] = Field(default_factory=list)


class _Document(Strict):
    tenants: list[_Entry] = Field(default_factory=list, max_length=100_000)
    issuers: list[Issuer] = Field(default_factory=list, max_length=100)


_TABLES: Mapping[str, type[Strict]] = {"tenants": _Entry, "quotas": Quotas, "keys": ApiKey, "issuers": Issuer}
"""What stands in each table of the document."""


@dataclass(frozen=True)
class Text:
    """One YAML text of a directory."""

    place: str
    """How messages call it."""
    content: str
    folder: Path
    """Where relative paths in it lead."""


@dataclass(frozen=True)
class TenantDirectory:
    """One version of the directory; it does not change, another takes its place."""

    tenants: Mapping[str, Tenant]
    keys: Mapping[str, tuple[ApiKey, str]]
    """Each key with its tenant's id, by the key's id."""
    issuers: Mapping[str, Issuer]
    """By `iss`."""

    @classmethod
    def parse(cls, texts: Sequence[Text], pools: Collection[str] = ()) -> TenantDirectory:
        """Reads the texts as one directory. Raises `DirectoryError` naming the place and what is accepted there."""
        tenants: dict[str, Tenant] = {}
        keys: dict[str, tuple[ApiKey, str]] = {}
        issuers: dict[str, Issuer] = {}
        for text in texts:
            document = _read(text)
            for index, entry in enumerate(document.tenants):
                where = f"{text.place}: tenants.{index}"
                if entry.id in tenants:
                    raise DirectoryError(
                        f"{where}.id: tenant {entry.id!r} is there already; accepted is one entry each"
                    )
                if entry.pool not in (DEFAULT_POOL, *pools):
                    accepted = ", ".join((DEFAULT_POOL, *pools))
                    raise DirectoryError(f"{where}.pool: {entry.pool!r} is not configured; accepted are {accepted}")
                tenants[entry.id] = Tenant(**{name: getattr(entry, name) for name in Tenant.model_fields})
                for number, key in enumerate(entry.keys):
                    if key.id in keys:
                        raise DirectoryError(f"{where}.keys.{number}.id: key {key.id} is there already; make another")
                    keys[key.id] = (key, entry.id)
            for index, issuer in enumerate(document.issuers):
                if issuer.issuer in issuers:
                    raise DirectoryError(f"{text.place}: issuers.{index}.issuer: {issuer.issuer!r} is there already")
                issuers[issuer.issuer] = _located(issuer, text.folder)
        if not tenants:
            places = ", ".join(text.place for text in texts)
            raise DirectoryError(f"{places}: tenants: none; at least one is needed, or nobody could call")
        return cls(tenants, keys, issuers)


def _read(text: Text) -> _Document:
    try:
        loaded = yaml.load(text.content, _LOADER)
    except ValueError as error:
        # A date that is none, as YAML's own constructor puts it.
        raise DirectoryError(f"{text.place}: not YAML ({error})") from None
    except yaml.YAMLError as error:
        # The whole message would quote the line, and keys may stand in it.
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        raise DirectoryError(
            f"{text.place}: {line}not YAML ({getattr(error, 'problem', None) or 'unreadable'})"
        ) from None
    if not isinstance(loaded, dict):
        raise DirectoryError(f"{text.place}: expected a table of tenants and issuers, found {type(loaded).__name__}")
    try:
        return _Document(**loaded)
    except (ValidationError, TypeError) as error:
        raise DirectoryError(f"{text.place}: {_told(error)}") from None


def _told(error: ValidationError | TypeError) -> str:
    if isinstance(error, TypeError):
        return f"a field's name is no text; accepted are {', '.join(_Document.model_fields)}"
    first = error.errors(include_input=False, include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    # A key pasted where a field's name is expected is a secret from its 16th character on.
    where = ".".join(part if len(part) <= 32 else f"{part[:15]}..." for part in path) or "directory"
    if first["type"] == "extra_forbidden":
        table = next((_TABLES[part] for part in reversed(path[:-1]) if part in _TABLES), _Document)
        return f"{where}: unknown; accepted are {', '.join(table.model_fields)}"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"


def _located(issuer: Issuer, folder: Path) -> Issuer:
    return issuer if issuer.remote else issuer.model_copy(update={"jwks": str(folder / issuer.jwks)})
