"""Weights from an object store onto this disk: `python -m liveact_services.cluster.fetch`, an init container's command.

The folder holds a file SHA256SUMS, as `sha256sum` writes it. The digest of that file is given, so that it fixes every byte of
every file in it; what lies here already and is right is not fetched again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import urlsplit, urlunsplit

SUMS = "SHA256SUMS"
AUTHORIZATION = "WEIGHTS_AUTHORIZATION"
"""Environment variable: the Authorization header of https requests."""
AT_ONCE = 4
PIECE = 1 << 20
TIMEOUT_S = 60.0
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")

Open = Callable[[str], AbstractContextManager[BinaryIO]]
"""A file's name in the folder -> its bytes as a stream."""


class FetchError(RuntimeError):
    """The weights are not there, or are others; the message says which file."""


def main() -> None:
    """Fetches; exits with 1 and one line on stderr where that fails."""
    parser = argparse.ArgumentParser(description="Fetch weights and check them.")
    parser.add_argument("--url", required=True, help="the folder: https://, s3:// or gs://")
    parser.add_argument("--sums-sha256", required=True, metavar="HEX", help=f"SHA-256 of its {SUMS}")
    parser.add_argument("--into", required=True, type=Path, metavar="FOLDER")
    asked = parser.parse_args()
    try:
        fetch(asked.url, asked.sums_sha256, asked.into, lambda line: print(line, flush=True))
    except FetchError as error:
        sys.exit(str(error))


def fetch(url: str, sums_sha256: str, into: Path, told: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Every file of the folder `url` into the folder `into`, checked. Gives their paths. Raises `FetchError`."""
    opened = _opener(url)
    with _reading(SUMS), opened(SUMS) as stream:
        sums = stream.read()
    if (found := hashlib.sha256(sums).hexdigest()) != sums_sha256:
        raise FetchError(f"{SUMS}: its SHA-256 is {found}, accepted is {sums_sha256}")
    files = parse_sums(sums.decode("utf-8", "replace"))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = [pool.submit(_one, opened, name, digest, into, told) for name, digest in files.items()]
        return [done.result() for done in waiting]


def parse_sums(text: str) -> dict[str, str]:
    """SHA-256 by name. Raises `FetchError` for a line of another form, and a name that leads out of the folder."""
    files = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise FetchError(f"{SUMS}, line {number}: expected 64 hexadecimal digits, two spaces and a file's name")
        path = PurePosixPath(match[2])
        if path.is_absolute() or ".." in path.parts:
            raise FetchError(f"{SUMS}, line {number}: {match[2]!r} leads out of the folder")
        files[str(path)] = match[1]
    if not files:
        raise FetchError(f"{SUMS}: names no file")
    return files


def _one(opened: Open, name: str, digest: str, into: Path, told: Callable[[str], None]) -> Path:
    path = into / name
    if path.exists() and _digest(path) == digest:
        told(f"{name}: is here")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with _reading(name), opened(name) as stream, part.open("wb") as file:
        shutil.copyfileobj(stream, file, PIECE)
    if (found := _digest(part)) != digest:
        part.unlink()
        raise FetchError(f"{name}: its SHA-256 is {found}, accepted is {digest}")
    part.rename(path)
    told(f"{name}: {path.stat().st_size:,} bytes")
    return path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _reading:
    """Failures of a store, by whatever name it calls them, become a `FetchError` of one file."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, urllib.error.HTTPError):
            raise FetchError(f"{self._name}: the store answers {error.code} {error.reason}") from None
        if isinstance(error, OSError):
            raise FetchError(f"{self._name}: cannot be read ({error})") from None


def _opener(url: str) -> Open:
    if urlsplit(url).scheme in ("http", "https"):
        return _https(url)
    try:
        from pyarrow import fs
    except ModuleNotFoundError:
        raise FetchError(f"{url}: this needs pyarrow; accepted without it is https://") from None
    try:
        store, root = fs.FileSystem.from_uri(url)
    except (OSError, ValueError) as error:
        raise FetchError(f"{url}: {error}") from None
    return lambda name: store.open_input_stream(f"{root}/{name}")


def _https(url: str) -> Open:
    parts = urlsplit(url)

    def opened(name: str) -> AbstractContextManager[BinaryIO]:
        # What follows a question mark is a signature for the whole folder.
        path = f"{parts.path.rstrip('/')}/{urllib.request.pathname2url(name)}"
        request = urllib.request.Request(urlunsplit(parts._replace(path=path)))
        if header := os.environ.get(AUTHORIZATION):
            # Unredirected: where a store sends us on to is not who the header is for.
            request.add_unredirected_header("Authorization", header.strip())
        return urllib.request.urlopen(request, timeout=TIMEOUT_S)

    return opened


if __name__ == "__main__":
    main()
