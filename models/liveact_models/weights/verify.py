"""Whether a folder of weights is whole: its files against its manifest, its tensors against the architecture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from liveact_models.checkpoint import open_checkpoint
from liveact_models.checkpoint.inspect import Inspection, inspect
from liveact_models.config import ModelConfig
from liveact_models.weights.hub import PARTS
from liveact_models.weights.manifest import MANIFEST, Digest, Manifest, Watch, digest, unwatched
from liveact_models.weights.releases import RELEASES

WEIGHT_FILES = (".safetensors", ".pth", ".bin", ".pt")


@dataclass(frozen=True)
class FileCheck:
    """One file beside what the manifest says of it."""

    path: str
    found: str
    """"ok", "missing", "size", "sha256", "extra" (weights that the manifest does not name) or "unlisted" (no manifest)."""
    detail: str = ""

    @property
    def ok(self) -> bool:
        return self.found in ("ok", "extra", "unlisted")


@dataclass(frozen=True)
class Verdict:
    """What was found in a folder."""

    folder: Path
    manifest: Manifest | None
    files: list[FileCheck]
    modules: list[Inspection]

    @property
    def unfinished(self) -> bool:
        """Whether a pull or conversion of the folder has not ended."""
        return self.manifest is not None and not self.manifest.complete

    @property
    def ok(self) -> bool:
        return (
            all(file.ok for file in self.files) and all(module.fits for module in self.modules) and not self.unfinished
        )


def verify(
    folder: Path, preset: str | ModelConfig, audio_encoder: Path | None = None, watch: Watch = unwatched
) -> Verdict:
    """Hash every file that the manifest names, and read the names and shapes of every module's tensors.

    Raises `CheckpointError` for a folder of no known layout, `WeightsError` for a manifest that cannot be read.
    """
    checkpoint = open_checkpoint(folder, preset, audio_encoder=audio_encoder)
    manifest = Manifest.read(folder)
    return Verdict(folder, manifest, list(_files(folder, manifest, watch)), inspect(checkpoint))


def preset_of(folder: Path, otherwise: str) -> str:
    """The preset that a folder's manifest tells by its release, where it has one."""
    manifest = Manifest.read(folder)
    release = RELEASES.get(manifest.release) if manifest else None
    return release.preset if release else otherwise


def weight_files(folder: Path) -> list[str]:
    """Paths of the files in a folder that are part of a checkpoint; what is being fetched or hidden is not."""
    found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [str(path) for path in found if path.name != MANIFEST and not any(p.startswith(".") for p in path.parts)]


def _files(folder: Path, manifest: Manifest | None, watch: Watch) -> Iterator[FileCheck]:
    there = [path for path in weight_files(folder) if not path.startswith(f"{PARTS}/")]
    if manifest is None:
        yield from (FileCheck(path, "unlisted") for path in there)
        return
    for path, wanted in sorted(manifest.files.items()):
        yield _compare(folder / path, path, wanted, watch)
    unknown = [path for path in there if path not in manifest.files and path.endswith(WEIGHT_FILES)]
    yield from (FileCheck(path, "extra", "the manifest does not name it") for path in unknown)


def _compare(path: Path, shown: str, wanted: Digest, watch: Watch) -> FileCheck:
    if not path.is_file():
        return FileCheck(shown, "missing", f"{wanted.size} bytes")
    if (size := path.stat().st_size) != wanted.size:
        return FileCheck(shown, "size", f"{size} bytes, expected {wanted.size}")
    found = digest(path, shown, watch)
    if found.sha256 != wanted.sha256:
        return FileCheck(shown, "sha256", f"{found.sha256[:16]}..., expected {wanted.sha256[:16]}...")
    return FileCheck(shown, "ok")
