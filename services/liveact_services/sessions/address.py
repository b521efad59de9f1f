"""From the URL of a Redis to its client: redis://, rediss:// for TLS, and both by way of Sentinel.

redis+sentinel://user:password@s1:26379,s2:26379/master/db names Sentinels, what they call the primary, and its database; in
rediss+sentinel:// they and it speak TLS. User and password are the primary's; `sentinel_username` and `sentinel_password` in the
query are the Sentinels'. All else in the query is what redis-py knows, as ssl_ca_certs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.connection import parse_url

SENTINEL = "+sentinel"
PORT = 26379


@dataclass(frozen=True)
class Watched:
    """A primary that Sentinels watch."""

    name: str
    sentinels: list[tuple[str, int]]
    sentinel_options: dict[str, Any]
    options: dict[str, Any]
    """Of connections to the primary."""


def connect(url: str, **options: Any) -> redis.asyncio.Redis:
    """A client for asyncio; it connects on first use. Raises ValueError for what is no such URL."""
    watched = _watched(url, options)
    if watched is None:
        return redis.asyncio.Redis.from_url(url, **options)
    known = redis.asyncio.sentinel.Sentinel(
        watched.sentinels, sentinel_kwargs=watched.sentinel_options, **watched.options
    )
    return known.master_for(watched.name)


def connect_blocking(url: str, **options: Any) -> redis.Redis:
    """The same without asyncio."""
    watched = _watched(url, options)
    if watched is None:
        return redis.Redis.from_url(url, **options)
    known = redis.sentinel.Sentinel(watched.sentinels, sentinel_kwargs=watched.sentinel_options, **watched.options)
    return known.master_for(watched.name)


def _watched(url: str, options: dict[str, Any]) -> Watched | None:
    parts = urlsplit(url)
    if not parts.scheme.endswith(SENTINEL):
        return None
    user, _, places = parts.netloc.rpartition("@")
    name, _, database = parts.path.strip("/").partition("/")
    if not name or not places:
        raise ValueError(
            "redis_url: accepted by way of Sentinel is redis+sentinel://user:password@host:26379,host:26379/master/db"
        )
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    own: dict[str, Any] = {
        key: query.pop(f"sentinel_{key}") for key in ("username", "password") if f"sentinel_{key}" in query
    }  # fmt: skip
    scheme = parts.scheme.removesuffix(SENTINEL)
    # redis-py reads user, database and query; the host stands for any.
    plain = parse_url(f"{scheme}://{user + '@' if user else ''}any/{database or 0}?{urlencode(query)}")
    read = {key: value for key, value in plain.items() if key not in ("host", "port", "connection_class")}
    if scheme == "rediss":
        own |= {"ssl": True, **{key: value for key, value in read.items() if key.startswith("ssl_")}}
        read["ssl"] = True
    return Watched(name, [_place(place) for place in places.split(",")], {**own, **options}, {**read, **options})


def _place(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon:
        return text, PORT
    if not host or not port.isdecimal():
        raise ValueError(f"redis_url: {text!r} is no Sentinel; accepted is host:port")
    return host.strip("[]"), int(port)
