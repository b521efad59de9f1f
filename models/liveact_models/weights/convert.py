"""The transformer's matrices in eight bits, into a folder of their own: tensor by tensor, shard by shard, resumable."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from liveact_models.blob import DTYPE_NAMES, HEADER_LENGTH_BYTES
from liveact_models.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from liveact_models.checkpoint.inspect import empty_module
from liveact_models.checkpoint.layouts import MANIFEST as OWN_MANIFEST
from liveact_models.checkpoint.layouts import TRANSFORMER_STEM
from liveact_models.checkpoint.stored import (
    Stored,
    StoredTensors,
    read_stored,
    shard_files,
)
from liveact_models.checkpoint.weights import misfits
from liveact_models.config import ModelConfig
from liveact_models.disk import GIB, free_bytes, replace_text
from liveact_models.precision.fp8 import FP8, quantise
from liveact_models.precision.linear import MULTIPLE, SCALE_SUFFIX
from liveact_models.weights.errors import WeightsError
from liveact_models.weights.hub import SPARE_BYTES
from liveact_models.weights.manifest import Digest, Manifest, Watch, digest, unwatched
from liveact_models.weights.verify import weight_files

CALIBRATION = "fp8.json"
"""Beside the weights: how far off each matrix is in eight bits, and which are to be kept from it."""
STATE = ".convert.json"
SHARD_BYTES = 4 * GIB
LINKED_BYTES = 2**20
"""Smaller files are copied: they may be edited, which must not reach the folder they came from."""


@dataclass(frozen=True)
class _Entry:
    """One tensor as it will stand in a shard."""

    name: str
    source: str
    """The tensor it is made of."""
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return Stored(Path(), self.shape, self.dtype).nbytes


def convert_fp8(
    source: Path,
    target: Path,
    preset: str | ModelConfig,
    *,
    shard_bytes: int = SHARD_BYTES,
    watch: Watch = unwatched,
) -> Manifest:
    """Write `source` to `target` with the transformer layers' matrices as e4m3 and a scale an output channel.

    All else keeps its type, and so do matrices that a calibration beside the weights names. Large files of the other modules
    are linked where the disk allows it, and copied elsewhere. In memory is one tensor at a time. Stopped or killed, the next call
    goes on with the shard that was being written.

    Raises `CheckpointError` for a source that does not fit the architecture, `WeightsError` ALREADY_FP8, TARGET_IN_USE or
    DISK_FULL.
    """
    checkpoint = open_checkpoint(source, preset)
    stem = TRANSFORMER_STEM[checkpoint.kind]
    stored = read_stored(source, stem)
    module = empty_module(checkpoint, "transformer")
    _require_convertible(source, module, stored)
    shards = _shards(stored, quantised_names(module) - kept_matrices(source), shard_bytes)
    others = _others(checkpoint, source, target, stem)
    _require_room(target, shards)
    work = _Work(source, target, stem, shards)
    names = work.names()
    for shard, name in zip(shards, names, strict=True):
        work.write(shard, name, stored, watch)
    _write_index(target, stem, shards, names)
    return _finish(checkpoint, source, target, work.digests, others, watch)


def quantised_names(transformer: nn.Module) -> set[str]:
    """The matrices that eight bits are for: those of the layers' linear maps whose sides the hardware takes.

    Embeddings, time, head and ConvKV weights are small, and every token passes through them.
    """
    layers = transformer.get_submodule("blocks").named_modules(prefix="blocks")
    linears = {name: part for name, part in layers if isinstance(part, nn.Linear)}
    return {
        f"{name}.weight"
        for name, linear in linears.items()
        if linear.in_features % MULTIPLE == 0 and linear.out_features % MULTIPLE == 0
    }


def kept_matrices(folder: Path) -> set[str]:
    """Those that a calibration beside the weights wants left in their own type; none without one.

    Raises `WeightsError` CALIBRATION_UNREADABLE.
    """
    path = folder / CALIBRATION
    if not path.is_file():
        return set()
    try:
        return {f"{name}.weight" for name in json.loads(path.read_text())["kept"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            "CALIBRATION_UNREADABLE", f"{path}: no list 'kept' ({error}); delete it or calibrate again"
        ) from None


def _others(checkpoint: Checkpoint, source: Path, target: Path, stem: str) -> dict[str, Path]:
    """The files beside the transformer's, by their paths in the new folder: first those without which it is no checkpoint's."""
    paths = [path for path in weight_files(source) if not path.startswith(stem)]
    others = {path: source / path for path in sorted(paths, key=lambda path: path in ("config.json", OWN_MANIFEST))}
    if checkpoint.kind == "released":
        voice = Path(checkpoint.source("audio_encoder")).parent
        if voice.parent.resolve() not in (source.resolve(), target.resolve().parent):
            beside = {f"{voice.name}/{path}": voice / path for path in weight_files(voice)}
            others = beside | others
    return others


class _Work:
    """A conversion under way: what it is of, and which shards are written."""

    def __init__(self, source: Path, target: Path, stem: str, shards: list[list[_Entry]]) -> None:
        self._target, self._stem, self._count = target, stem, len(shards)
        files = [path.resolve() for path in shard_files(source, stem)]
        stats = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}
        self._of = {"files": stats, "shards": [[entry.name for entry in shard] for shard in shards]}
        self.digests: dict[str, Digest] = {}
        self._begin()

    def names(self) -> list[str]:
        return [f"{self._stem}-{n:05d}-of-{self._count:05d}.safetensors" for n in range(1, self._count + 1)]

    def write(self, shard: list[_Entry], name: str, stored: StoredTensors, watch: Watch) -> None:
        """Write one shard, unless it was written before."""
        if name in self.digests and (self._target / name).is_file():
            return
        part = self._target / f".{name}.part"
        with part.open("wb") as file:
            _write_shard(file, shard, name, stored, watch)
            file.flush()
            os.fsync(file.fileno())
        found = digest(part, name, watch)
        os.replace(part, self._target / name)
        self.digests[name] = found
        self._save()

    def _begin(self) -> None:
        state = self._target / STATE
        if state.is_file():
            begun: dict[str, Any] = json.loads(state.read_text())
            if begun["of"] != self._of:
                raise WeightsError(
                    "TARGET_IN_USE",
                    f"{self._target}: holds the beginning of another conversion; delete it, or name another folder",
                )
            self.digests = {name: Digest(**values) for name, values in begun["done"].items()}
        elif self._target.is_dir() and any(self._target.iterdir()):
            raise WeightsError(
                "TARGET_IN_USE", f"{self._target}: is not empty; accepted is a new folder or an empty one"
            )
        self._target.mkdir(parents=True, exist_ok=True)
        self._save()

    def _save(self) -> None:
        done = {name: asdict(found) for name, found in self.digests.items()}
        replace_text(self._target / STATE, json.dumps({"of": self._of, "done": done}))


def _require_convertible(source: Path, module: nn.Module, stored: StoredTensors) -> None:
    if any(entry.dtype == FP8 for entry in stored.entries.values()):
        raise WeightsError(
            "ALREADY_FP8", f"{source}: its transformer is in eight bits already; convert the released one"
        )
    if wrong := misfits(module, stored):
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise CheckpointError(wrong[0].reason, f"{source}: {wrong[0]}{more}; liveact weights verify lists them")


def _require_room(target: Path, shards: list[list[_Entry]]) -> None:
    needed, free = sum(entry.nbytes for shard in shards for entry in shard), free_bytes(target)
    written = sum(path.stat().st_size for path in target.glob("*.safetensors")) if target.is_dir() else 0
    if needed - written + SPARE_BYTES > free:
        raise WeightsError(
            "DISK_FULL",
            f"{target}: {needed / GIB:.1f} GiB are to be written and {free / GIB:.1f} GiB are free; free some",
        )


def _shards(stored: StoredTensors, quantised: set[str], limit: int) -> list[list[_Entry]]:
    """The tensors in their stored order, in runs of at most `limit` bytes; a matrix and its scales stay together."""
    shards: list[list[_Entry]] = [[]]
    size = 0
    for name, held in stored.entries.items():
        group = [_Entry(name, name, held.shape, FP8 if name in quantised else held.dtype)]
        if name in quantised:
            group.append(_Entry(name + SCALE_SUFFIX, name, (held.shape[0], 1), torch.float32))
        more = sum(entry.nbytes for entry in group)
        if shards[-1] and size + more > limit:
            shards.append([])
            size = 0
        shards[-1] += group
        size += more
    return shards


def _write_shard(file: BinaryIO, shard: list[_Entry], shown: str, stored: StoredTensors, watch: Watch) -> None:
    """The safetensors format: the header's length, the header, then the bytes in its order.

    The library's writer takes all tensors of a file at once, so a shard would have to lie in memory.
    """
    header, offset = {}, 0
    for entry in shard:
        spans = [offset, offset + entry.nbytes]
        header[entry.name] = {"dtype": DTYPE_NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": spans}
        offset = spans[1]
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % HEADER_LENGTH_BYTES)
    file.write(len(text).to_bytes(HEADER_LENGTH_BYTES, "little") + text)
    written = 0
    for tensor in _values(shard, stored):
        file.write(tensor.contiguous().view(torch.uint8).numpy().data)
        written += tensor.nbytes
        watch("converting", shown, written, offset)


def _values(shard: list[_Entry], stored: StoredTensors) -> Iterator[torch.Tensor]:
    scale: torch.Tensor | None = None
    for entry in shard:
        if entry.name != entry.source:
            assert scale is not None
            yield scale
        elif entry.dtype == FP8:
            matrix, scale = quantise(stored[entry.source])
            yield matrix
        else:
            yield stored[entry.source]


def _write_index(target: Path, stem: str, shards: list[list[_Entry]], names: list[str]) -> None:
    weight_map = {entry.name: name for shard, name in zip(shards, names, strict=True) for entry in shard}
    total = sum(entry.nbytes for shard in shards for entry in shard)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (target / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def _finish(
    checkpoint: Checkpoint,
    source: Path,
    target: Path,
    digests: dict[str, Digest],
    others: dict[str, Path],
    watch: Watch,
) -> Manifest:
    """Bring the other modules' files; what makes the folder a checkpoint comes last."""
    known = Manifest.read(source)
    files = dict(digests)
    for path, origin in others.items():
        _link(origin, target / path)
        listed = known.files.get(path) if known else None
        files[path] = listed if listed else digest(target / path, path, watch)
    index = next(path.name for path in target.glob("*.safetensors.index.json"))
    files[index] = digest(target / index, index)
    release = known.release if known else checkpoint.config.name
    manifest = Manifest(release, known.origins if known else [], files, True, "matrices of the layers in e4m3")
    (target / STATE).unlink()
    manifest.write(target)
    return manifest


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if source.stat().st_size < LINKED_BYTES:
        shutil.copy2(source, target)
        return
    try:
        os.link(source.resolve(), target)
    except OSError:
        # Another disk, or one without links.
        shutil.copy2(source, target)
