"""From a hub into a folder: planned first, resumed where it stopped, every file hashed before it gets its name.

The hub's own client finds the files and moves the bytes. What it does not do is keep the half of a file that a killed process
leaves, so parts and their names are kept here.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from liveact_models.disk import GIB, free_bytes
from liveact_models.weights.errors import HubUnavailable, WeightsError
from liveact_models.weights.manifest import Digest, Manifest, Origin, Watch, digest, git_blob, unwatched
from liveact_models.weights.releases import Release, Source

PARTS = ".parts"
SPARE_BYTES = 64 * 2**20
"""Left free on the disk beyond what the weights need."""
WORKERS = 4
"""Files fetched at a time."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository, and what it must be."""

    repo: str
    commit: str
    name: str
    """In the repository."""
    path: str
    """In the folder."""
    size: int
    sha256: str | None
    """Of a large file; a small one has its git blob alone."""
    blob: str | None

    @property
    def part(self) -> str:
        """Where it grows: parts of different contents never mix."""
        return f"{PARTS}/{self.path.replace('/', '--')}.{(self.sha256 or self.blob or self.commit)[:16]}"


@dataclass(frozen=True)
class Plan:
    """What a pull is going to do."""

    release: Release
    folder: Path
    endpoint: str
    has_token: bool
    origins: list[Origin]
    files: list[RemoteFile]
    done: dict[str, Digest]
    """Files that are there, whole."""
    fetched_bytes: int
    """Of the others, what earlier pulls left in parts."""
    free_bytes: int

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def missing(self) -> list[RemoteFile]:
        return [file for file in self.files if file.path not in self.done]

    @property
    def missing_bytes(self) -> int:
        """Still to be fetched."""
        return sum(file.size for file in self.missing) - self.fetched_bytes

    def require_room(self) -> None:
        """Raises `WeightsError` DISK_FULL."""
        if self.missing_bytes and self.missing_bytes + SPARE_BYTES > self.free_bytes:
            raise WeightsError(
                "DISK_FULL",
                f"{self.folder}: {self.missing_bytes / GIB:.1f} GiB are to come and {self.free_bytes / GIB:.1f} GiB are free "
                "on its disk; free some, or name a folder on another disk with --to",
            )


class Hub:
    """A Hugging Face hub, or one that speaks like it."""

    def __init__(self, endpoint: str | None = None, token: str | None = None) -> None:
        """None takes HF_ENDPOINT, and HF_TOKEN or what `hf auth login` has kept."""
        from huggingface_hub import HfApi, constants, get_token
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        self._token = token or get_token()
        self._api = HfApi(endpoint=self.endpoint, token=self._token or False)

    def plan(self, release: Release, folder: Path, revision: str | None = None, watch: Watch = unwatched) -> Plan:
        """Ask the hub what there is, and look what of it is in the folder.

        Without `revision`, of the first repository, a folder keeps to the commits it was begun with.
        Raises `WeightsError` HUB_REFUSED, HUB_NOT_FOUND, HUB_LAYOUT or MANIFEST_UNREADABLE, `HubUnavailable`.
        """
        begun = Manifest.read(folder)
        pinned = {origin.repo: origin.commit for origin in begun.origins} if begun else {}
        origins, files = [], []
        for number, source in enumerate(release.sources):
            wanted = (revision if number == 0 else None) or pinned.get(source.repo) or source.revision
            origin, found = self._list(source, wanted)
            origins.append(origin)
            files += found
        done = _whole(folder, files, begun, watch)
        parts = [folder / file.part for file in files if file.path not in done]
        fetched = sum(part.stat().st_size for part in parts if part.is_file())
        free = free_bytes(folder)
        return Plan(release, folder, self.endpoint, self._token is not None, origins, files, done, fetched, free)

    def fetch(self, plan: Plan, watch: Watch = unwatched) -> Manifest:
        """Do what was planned; gives the folder's manifest. Stopped or killed, it goes on from there the next time.

        Raises `WeightsError` DISK_FULL or as `plan` does, `HubUnavailable`.
        """
        plan.require_room()
        (plan.folder / PARTS).mkdir(parents=True, exist_ok=True)
        manifest = Manifest(plan.release.name, plan.origins, dict(plan.done))
        manifest.write(plan.folder)
        stop = threading.Event()
        pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="fetch")
        try:
            fetches = {pool.submit(self._fetch, file, plan.folder, watch, stop): file for file in plan.missing}
            waiting = set(fetches)
            while waiting:
                ended, waiting = wait(waiting, timeout=0.2, return_when=FIRST_EXCEPTION)
                for fetch in ended:
                    manifest.files[fetches[fetch].path] = fetch.result()
                if ended:
                    manifest.write(plan.folder)
        finally:
            # After an error or Ctrl-C what is under way ends with its next piece, and stays as a part.
            stop.set()
            pool.shutdown(cancel_futures=True)
        manifest.complete = True
        manifest.write(plan.folder)
        shutil.rmtree(plan.folder / PARTS, ignore_errors=True)
        return manifest

    def _list(self, source: Source, revision: str) -> tuple[Origin, list[RemoteFile]]:
        with explained(f"{source.repo} at {revision}", self.endpoint):
            info = self._api.model_info(source.repo, revision=revision, files_metadata=True)
        commit = info.sha or revision
        files = []
        for sibling in info.siblings or []:
            name = sibling.rfilename
            if not any(fnmatchcase(name, pattern) for pattern in (*source.needed, *source.taken)):
                continue
            _require_inside(name, source.repo)
            path = f"{source.folder}/{name}" if source.folder else name
            sha256 = sibling.lfs.sha256 if sibling.lfs else None
            files.append(RemoteFile(source.repo, commit, name, path, sibling.size or 0, sha256, sibling.blob_id))
        for pattern in source.needed:
            if not any(fnmatchcase(file.name, pattern) for file in files):
                raise WeightsError(
                    "HUB_LAYOUT",
                    f"{source.repo} at {commit} has no {pattern}: accepted is the released layout; name another --revision",
                )
        return Origin(source.repo, commit, source.folder), files

    def _fetch(self, file: RemoteFile, folder: Path, watch: Watch, stop: threading.Event) -> Digest:
        part, target = folder / file.part, folder / file.path
        for _ in range(2):
            # A part that an earlier version of the file or a damaged line left is fetched once more, from its beginning.
            self._download(file, part, watch, stop)
            found = digest(part, file.path, watch)
            if _matches(file, part, found):
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(part, target)
                return found
            part.unlink()
        raise HubUnavailable(
            "HASH_MISMATCH",
            f"{file.repo}/{file.name}: what came twice has sha256 {found.sha256}, announced is {file.sha256 or file.blob}; "
            f"something between here and {self.endpoint} changes the file: try another network or HF_ENDPOINT",
        )

    def _download(self, file: RemoteFile, part: Path, watch: Watch, stop: threading.Event) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        url = hf_hub_url(file.repo, file.name, revision=file.commit, endpoint=self.endpoint)
        headers = build_hf_headers(token=self._token or False)
        # What is counted and hashed is the file, not its compressed form.
        headers["Accept-Encoding"] = "identity"
        if part.is_file() and part.stat().st_size > file.size:
            part.unlink()
        with part.open("ab") as opened, explained(f"{file.repo}/{file.name}", self.endpoint):
            there = opened.tell()
            watch("fetching", file.path, there, file.size)
            counted = _Counted(opened, file, watch, stop)
            http_get(url, counted, resume_size=there, headers=headers, expected_size=file.size)  # type: ignore[arg-type]


class _Counted:
    """A file being written, of which somebody is told, until it is to stop."""

    def __init__(self, file: BinaryIO, remote: RemoteFile, watch: Watch, stop: threading.Event) -> None:
        self._file, self._remote, self._watch, self._stop = file, remote, watch, stop

    def write(self, chunk: bytes) -> int:
        if self._stop.is_set():
            raise HubUnavailable(
                "HUB_FAILED", f"{self._remote.name}: given up with another file; run the command again"
            )
        written = self._file.write(chunk)
        self._watch("fetching", self._remote.path, self._file.tell(), self._remote.size)
        return written

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int) -> int:
        return self._file.seek(offset)

    def truncate(self) -> int:
        return self._file.truncate()


def _whole(folder: Path, files: list[RemoteFile], begun: Manifest | None, watch: Watch) -> dict[str, Digest]:
    """Which of the files are in the folder already, by what the manifest says of them or by their hash."""
    done = {}
    for file in files:
        path = folder / file.path
        if not path.is_file() or path.stat().st_size != file.size:
            continue
        known = begun.files.get(file.path) if begun else None
        if known is None or known.size != file.size or (file.sha256 and known.sha256 != file.sha256):
            known = digest(path, file.path, watch)
        if _matches(file, path, known):
            done[file.path] = known
    return done


def _matches(file: RemoteFile, path: Path, found: Digest) -> bool:
    if file.sha256 is not None:
        return found.sha256 == file.sha256
    return file.blob is None or git_blob(path) == file.blob


def _require_inside(name: str, repo: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise WeightsError(
            "HUB_LAYOUT", f"{repo}: a file named {name!r} would lie outside the folder; accepted are none"
        )


@contextmanager
def explained(what: str, endpoint: str) -> Iterator[None]:
    """The client's errors as ours: what was wanted, what came, what to do."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise WeightsError(
            "HUB_REFUSED",
            f"{what}: its owners ask for consent first; give it at {endpoint}, then set HF_TOKEN to a token of that account",
        ) from None
    except errors.RevisionNotFoundError:
        raise WeightsError("HUB_NOT_FOUND", f"{what}: no such revision; accepted are a commit, branch or tag") from None
    except (errors.RepositoryNotFoundError, errors.RemoteEntryNotFoundError):
        raise WeightsError(
            "HUB_NOT_FOUND",
            f"{what}: not at {endpoint}, or not for you; check HF_ENDPOINT, and HF_TOKEN if it is private",
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise WeightsError(
                "HUB_REFUSED", f"{what}: refused with {status}; check HF_TOKEN, or unset it for public weights"
            ) from None
        raise HubUnavailable(
            "HUB_FAILED",
            f"{what}: {endpoint} answered {status}; run the command again later, it goes on where it stopped",
        ) from None
    except (errors.OfflineModeIsEnabled, httpx2.TransportError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise HubUnavailable(
            "HUB_OFFLINE",
            f"{what}: {endpoint} cannot be reached ({why}); check the network, HTTPS_PROXY and HF_HUB_OFFLINE, or name a "
            "mirror with HF_ENDPOINT; run the command again, it goes on where it stopped",
        ) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise WeightsError(
                "DISK_FULL",
                f"{what}: the disk is full; free some and run the command again, it goes on where it stopped",
            ) from None
        if error.errno is None:
            # The client's word for a body that ended early.
            raise HubUnavailable(
                "HUB_FAILED", f"{what}: {' '.join(str(error).split())}; run the command again"
            ) from None
        raise
