"""Scenes: the test clips that contenders perform, with what of their truth is compared, drawn once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from liveact_models.evaluate.contenders import Contender, Frames, video
from liveact_models.evaluate.frechet import Gaussian, frechet_distance, random_features
from liveact_models.evaluate.judge import POSE, Judge, Sight
from liveact_models.evaluate.lips import Agreement, agreement, agreements
from liveact_models.evaluate.liveliness import HEAD, blinks, head_motion
from liveact_models.evaluate.sharpness import gradient_energy
from liveact_models.evaluate.suites.result import Progress, Row, quiet
from liveact_models.timeline import BLOCK_FRAMES, FIRST_BLOCK_FRAMES
from liveact_models.world.clip import FPS, Clip, make_clip
from liveact_models.world.mouth import MOUTH
from liveact_models.world.sentences import Split
from liveact_models.world.voices import Voice

Speaker = str | Voice | None
"""A voice by name or as itself; None is any trained one."""
SPLIT: Split = "test"
FIRST_SEED = 9000
"""Of the test clips; their people and sentences occur in no training."""
SHOTS = 10
"""Frames of a scene that are kept for the sheet."""


@dataclass(frozen=True)
class Script:
    """Which clips are performed."""

    count: int = 30
    """Sentences, each said by another unseen person."""
    blocks: int = 4
    """Length: 21 frames, and 32 for every block more."""
    size: int = 128
    first_seed: int = FIRST_SEED

    @property
    def frames(self) -> int:
        return FIRST_BLOCK_FRAMES + (self.blocks - 1) * BLOCK_FRAMES


@dataclass(frozen=True)
class Scene:
    """A test clip, and of its rendered frames what a video of it is compared with."""

    clip: Clip

    @cached_property
    def truth(self) -> tuple[NDArray[np.float64], float]:
        """Features [T, D] and gradient energy of the rendered frames, which are not kept."""
        frames = self.clip.frames()
        return random_features(frames), gradient_energy(frames)


def scenes(script: Script, voices: Sequence[Speaker] = (None,), first: int = 0) -> list[Scene]:
    """The script's clips; said by the voices in turn. `first`: offset of the seeds."""
    return [
        Scene(
            make_clip(
                script.first_seed + first + number, script.frames, SPLIT, script.size, voices[number % len(voices)],
                asked=[(0, "neutral", "none")],
            )
        )
        for number in range(script.count)
    ]  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """What was seen of one contender in every scene."""

    name: str
    scenes: list[Scene]
    sights: list[Sight]
    features: list[NDArray[np.float64]]
    energies: list[float]
    shots: list[Frames]
    """Of the first scenes, [SHOTS, H, W, 3] each."""

    @property
    def mouths(self) -> list[NDArray[np.float32]]:
        return [sight.mouth for sight in self.sights]

    @cached_property
    def lips(self) -> dict[str, Agreement]:
        """Of every channel, over all scenes."""
        return agreements([scene.clip.mouth for scene in self.scenes], self.mouths)

    @property
    def frechet(self) -> float:
        """From the true frames, in the space of `frechet.RandomFeatures`."""
        truth = np.concatenate([scene.truth[0] for scene in self.scenes])
        return frechet_distance(Gaussian.of(np.concatenate(self.features)), Gaussian.of(truth))

    @property
    def sharpness(self) -> float:
        return float(np.sum(self.energies) / np.sum([scene.truth[1] for scene in self.scenes]))

    @property
    def head_motion(self) -> float:
        """Relative to how far the head was meant to move."""
        meant = [np.stack([getattr(scene.clip.motion, name) for name in HEAD], axis=1) for scene in self.scenes]
        columns = [POSE.index(name) for name in HEAD]
        return head_motion([sight.pose[:, columns] for sight in self.sights]) / head_motion(meant)

    @property
    def blinks_a_minute(self) -> float:
        frames = sum(len(sight) for sight in self.sights)
        return sum(blinks(sight.pose[:, POSE.index("blink")]) for sight in self.sights) / frames * FPS * 60

    @property
    def opening_by_scene(self) -> list[float]:
        """Correlation of the opening in every scene by itself."""
        pairs = zip(self.scenes, self.mouths, strict=True)
        return [agreement([scene.clip.mouth[:, 0]], [mouth[:, 0]]).r for scene, mouth in pairs]

    def row(self, **labels: str | float | int) -> Row:
        """The figures of the lips, beside what else is compared frame by frame."""
        opening = self.lips[MOUTH[0]]
        return {
            "contender": self.name, **labels, "clips": len(self.scenes), "open r": opening.r, "open slope": opening.slope,
            "best lag": opening.lag, "worst clip": float(np.nanmin(self.opening_by_scene)),
            **{f"{name} r": self.lips[name].r for name in MOUTH[1:]},
            "head motion": self.head_motion, "blinks/min": self.blinks_a_minute, "frechet": self.frechet,
            "sharpness": self.sharpness,
        }  # fmt: skip


def measure(
    contender: Contender, chosen: Sequence[Scene], judge: Judge, shots: int = 0, progress: Progress = quiet
) -> Measured:
    """Let the contender perform every scene; of the first `shots` keep frames."""
    measured = Measured(contender.name, list(chosen), [], [], [], [])
    for number, scene in enumerate(chosen):
        frames = video(contender, scene.clip)
        measured.sights.append(judge.see(frames))
        measured.features.append(random_features(frames))
        measured.energies.append(gradient_energy(frames))
        if number < shots:
            measured.shots.append(frames[shot_frames(len(frames))])
        progress(contender.name, number + 1, len(chosen))
    return measured


def shot_frames(length: int) -> NDArray[np.int64]:
    """Which frames of a scene are kept: evenly spread, the very beginning left out, where nobody speaks yet."""
    return np.linspace(length // 6, length - 1, SHOTS).astype(np.int64)


def sheet_rows(measured: Iterable[Measured]) -> list[tuple[str, Frames]]:
    """For every scene that shots were kept of: the truth's, then each contender's."""
    kept = list(measured)
    rows: list[tuple[str, Frames]] = []
    for number in range(min((len(one.shots) for one in kept), default=0)):
        clip = kept[0].scenes[number].clip
        truth = np.concatenate([clip.frames(at, at + 1) for at in map(int, shot_frames(clip.length))])
        rows.append(("truth", truth))
        rows += [(one.name, one.shots[number]) for one in kept]
    return rows
