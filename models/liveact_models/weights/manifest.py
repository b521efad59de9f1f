"""weights.json: what a folder of weights holds, where it came from and the sha256 of every file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from liveact_models.disk import replace_text
from liveact_models.weights.errors import WeightsError

MANIFEST = "weights.json"
FORMAT = "liveact-weights"
VERSION = 1
_CHUNK = 8 * 2**20

Watch = Callable[[str, str, int, int], None]
"""Told of progress, from several threads: what is done, to which file, bytes so far, bytes in all."""


def unwatched(doing: str, path: str, done: int, total: int) -> None:
    """A `Watch` that looks away."""


@dataclass(frozen=True)
class Digest:
    """What a file must be."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Origin:
    """A repository at the commit that was taken."""

    repo: str
    commit: str
    folder: str = ""


@dataclass
class Manifest:
    """The files of one folder, by their paths in it."""

    release: str
    origins: list[Origin] = field(default_factory=list)
    files: dict[str, Digest] = field(default_factory=dict)
    complete: bool = False
    """Whether these are all; not while they are being fetched."""
    made: str = ""
    """How the files came about, where they are not as released."""

    def write(self, folder: Path) -> None:
        """Replace the folder's manifest at once."""
        values = {"format": FORMAT, "version": VERSION, **asdict(self)}
        replace_text(folder / MANIFEST, json.dumps(values, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """The folder's manifest, if it has one. Raises `WeightsError` MANIFEST_UNREADABLE."""
        path = folder / MANIFEST
        try:
            values: Any = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise WeightsError(
                "MANIFEST_UNREADABLE", f"{path}: not JSON ({error}); delete it, and pull again"
            ) from None
        try:
            found = values.pop("format"), values.pop("version")
            if found != (FORMAT, VERSION):
                raise ValueError(f"format {found[0]!r} version {found[1]!r}")
            values["origins"] = [Origin(**origin) for origin in values["origins"]]
            values["files"] = {name: Digest(**digest) for name, digest in values["files"].items()}
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(
                "MANIFEST_UNREADABLE",
                f"{path}: {error}; accepted is {FORMAT!r} version {VERSION}: delete it, and pull again",
            ) from None


def digest(path: Path, shown: str, watch: Watch = unwatched) -> Digest:
    """Size and sha256 of a file."""
    size, read, sha = path.stat().st_size, 0, hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha.update(chunk)
            read += len(chunk)
            watch("checking", shown, read, size)
    return Digest(size, sha.hexdigest())


def git_blob(path: Path) -> str:
    """The id git gives a file's content: what a hub names a small file by."""
    # Git's choice of hash, not ours; it tells damage, and a hub's operator could write anything anyway.
    sha = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()
