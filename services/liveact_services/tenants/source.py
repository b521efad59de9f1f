"""Where a directory is read from: a YAML file, a folder of them (a mounted Kubernetes Secret), or an environment variable."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import NamedTuple

from liveact_services.tenants.directory import DirectoryError, Text

ENVIRONMENT = "env:"
SUFFIXES = (".yaml", ".yml")


class _Seen(NamedTuple):
    """What tells one version of a file from another without reading it."""

    path: str
    device: int
    inode: int
    size: int
    changed_ns: int


class DirectorySource:
    """A path, or "env:NAME". Every method raises `DirectoryError` for what cannot be read."""

    def __init__(self, place: str, environment: Mapping[str, str] | None = None) -> None:
        self.place = place
        self._environment = os.environ if environment is None else environment

    def version(self) -> Hashable:
        """Something that differs when the texts do; cheap."""
        if self.place.startswith(ENVIRONMENT):
            return self._variable().content
        try:
            return tuple(_seen(path) for path in self._files())
        except OSError as error:
            raise self._unreadable(error) from None

    def read(self) -> list[Text]:
        """The texts that make up the directory."""
        if self.place.startswith(ENVIRONMENT):
            return [self._variable()]
        try:
            return [Text(str(path), path.read_text("utf-8"), path.parent) for path in self._files()]
        except OSError as error:
            raise self._unreadable(error) from None
        except UnicodeDecodeError:
            raise DirectoryError(f"{self.place}: not UTF-8") from None

    def _variable(self) -> Text:
        name = self.place.removeprefix(ENVIRONMENT)
        content = self._environment.get(name)
        if content is None:
            raise DirectoryError(f"{self.place}: the environment variable {name!r} is not set")
        return Text(self.place, content, Path.cwd())

    def _files(self) -> list[Path]:
        path = Path(self.place)
        if not path.is_dir():
            return [path]
        # Kubernetes exchanges a mounted Secret by one symlink. Followed once, all files come from the same version.
        mounted = path / "..data"
        folder = mounted.resolve() if mounted.exists() else path
        files = sorted(f for f in folder.iterdir() if f.suffix in SUFFIXES and not f.name.startswith("."))
        if not files:
            raise DirectoryError(f"{self.place}: holds no file; accepted are names that end in {' or '.join(SUFFIXES)}")
        return files

    def _unreadable(self, error: OSError) -> DirectoryError:
        return DirectoryError(f"{error.filename or self.place}: cannot be read ({error.strerror})")


def _seen(path: Path) -> _Seen:
    status = path.stat()
    return _Seen(str(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
