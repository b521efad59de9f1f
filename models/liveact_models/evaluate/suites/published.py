"""Suite `published`: Sync-C, Sync-D, FID and FVD, as far as their networks were supplied."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from liveact_models.evaluate.contenders import Contender, Rendered, video
from liveact_models.evaluate.published import PublishedNetworks, frechet_of, i3d_features, inception_features
from liveact_models.evaluate.recordings import Recording
from liveact_models.evaluate.suites.result import Progress, Row, SuiteResult, quiet
from liveact_models.evaluate.suites.scenes import Scene, Script
from liveact_models.evaluate.syncnet import Sync, sync
from liveact_models.world.clip import FPS

Collection = tuple[str, Iterable[Recording]]
"""A name and videos, which are gone through once and not kept."""


@dataclass
class _Seen:
    """What the networks said of one collection."""

    videos: int = 0
    syncs: list[Sync] = field(default_factory=list)
    pictures: list[NDArray[np.float64]] = field(default_factory=list)
    motions: list[NDArray[np.float64]] = field(default_factory=list)


def published_suite(
    networks: PublishedNetworks,
    truth: Collection | None,
    collections: Sequence[Collection],
    settings: dict[str, object],
    progress: Progress = quiet,
) -> SuiteResult:
    """A row for every collection of videos; FID and FVD are distances from the truth and need one.

    Raises `PublishedError` for a network of another interface, `ValueError` for videos too short for FVD or Sync-C.
    """
    reference = None if truth is None else _look(networks, truth, progress)
    rows = [] if truth is None or reference is None else [_row(truth[0], reference, None)]
    rows += [_row(one[0], _look(networks, one, progress), reference) for one in collections]
    return SuiteResult("published", rows, settings | {"left out": list(networks.missing)})


def performed(contender: Contender, played: Sequence[Scene]) -> Collection:
    """A contender's videos of these scenes."""

    def recordings() -> Iterator[Recording]:
        for scene in played:
            yield Recording(str(scene.clip.seed), video(contender, scene.clip), FPS, scene.clip.samples)

    return contender.name, recordings()


def scene_collections(
    contenders: Sequence[Contender], played: Sequence[Scene], script: Script
) -> tuple[Collection, list[Collection], dict[str, object]]:
    """Truth, collections and settings of `published_suite` for contenders who perform scenes."""
    return performed(Rendered(), played), [performed(one, played) for one in contenders], {"script": asdict(script)}


def file_collection(name: str, files: Sequence[Path]) -> Collection:
    """The videos of these files, read one by one. Raises `RecordingError` when one is reached that is none."""
    from liveact_models.evaluate.recordings import read_recording

    return name, map(read_recording, files)


def _look(networks: PublishedNetworks, collection: Collection, progress: Progress) -> _Seen:
    name, recordings = collection
    seen = _Seen()
    for recording in recordings:
        seen.videos += 1
        if networks.syncnet is not None and len(recording.samples):
            seen.syncs.append(sync(networks.syncnet, recording.frames, recording.fps, recording.samples))
        if networks.inception is not None:
            seen.pictures.append(inception_features(networks.inception, recording.frames))
        if networks.i3d is not None:
            seen.motions.append(i3d_features(networks.i3d, recording.frames))
        progress(name, seen.videos, 0)
    return seen


def _row(name: str, seen: _Seen, truth: _Seen | None) -> Row:
    """What could not be measured is left out."""
    row: Row = {"videos of": name, "count": seen.videos}
    if seen.syncs:
        row["Sync-C"] = float(np.mean([one.confidence for one in seen.syncs]))
        row["Sync-D"] = float(np.mean([one.distance for one in seen.syncs]))
        row["offset"] = float(np.median([one.offset for one in seen.syncs]))
    if truth is not None:
        if seen.pictures and truth.pictures:
            row["FID"] = frechet_of(seen.pictures, truth.pictures)
        if seen.motions and truth.motions:
            row["FVD"] = frechet_of(seen.motions, truth.motions)
    return row
