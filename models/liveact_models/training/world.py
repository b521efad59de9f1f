"""The stage `world`: short clips of drawn people, rendered once, for the autoencoder.

Most perform made-up speech as `liveact_models.world.motion` has it; the others move every value of the face on its own and
quickly over its whole range, so that no state is rare. No sound is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from liveact_models.training.draws import rng
from liveact_models.training.picture_bank import PICTURES, save_shard
from liveact_models.training.recipe import Recipe
from liveact_models.training.run_folder import RunFolder
from liveact_models.training.shards import ShardStage
from liveact_models.world.draw import draw, face_box, mouth_box
from liveact_models.world.face import STATE, FaceState
from liveact_models.world.identity import Identity
from liveact_models.world.motion import ACTIONS, EMOTIONS, FPS, Motion, perform
from liveact_models.world.mouth import SILENCE, SYMBOLS, Phone, mouth_track, viseme_track

LEAD = 60
"""Video frames that a performance may have gone on before its clip begins."""
WILD = 0.35
"""Share of clips in which every value moves on its own."""
REACH = 1.25
"""How far beyond its range a wild value swings, so that its ends are seen often; it is drawn as the end."""
QUICK = ("open", "width", "round", "teeth", "blink")
"""What may change from frame to frame; the rest of a face is slower."""
PAUSE = 0.07
"""Share of made-up phonemes that are a pause."""
SIGNED = ("yaw", "pitch", "roll", "shift_x", "shift_y", "gaze_x", "gaze_y", "smile", "hand_swing")
"""What goes from -1 to 1; the rest of a face goes from 0."""


@dataclass(frozen=True)
class WorldOptions:
    """Options of the recipe."""

    frames: int = 21
    """Video frames of a clip, 1 + 4n."""
    size: int = 128
    """Side of the pictures in pixels."""
    processes: int = 2


class WorldStage(ShardStage):
    """Renders the clips."""

    def __init__(self, recipe: Recipe, run: RunFolder, device: torch.device) -> None:
        self.options = recipe.read_options(WorldOptions)
        super().__init__(recipe, run, device, self.options.processes)

    def shard_path(self, shard: int) -> Path:
        return self.run.world / PICTURES.format(shard)

    def work(self, clip: int) -> tuple[Any, ...]:
        return film, (self.recipe.seed, clip), self.options.frames, self.options.size

    def save(self, shard: int, clips: list[Film]) -> float:
        pictures, boxes = zip(*clips, strict=True)
        save_shard(self.run.world, shard, np.stack(pictures), np.stack(boxes))
        return 0.0


Film = tuple[NDArray[np.uint8], NDArray[np.float32]]
"""Pictures [T, size, size, 3] and boxes [T, 2, 4] of mouth and face, in fractions of the picture."""


def film(key: tuple[int, ...], frames: int, size: int) -> Film:
    """The clip of that key, `frames` long.

    Raises `MissingExtra` where skia-python is not installed.
    """
    chance = rng(*key)
    identity = Identity.sample(chance)
    motion = _wild(chance, frames) if chance.random() < WILD else _performed(chance, frames)
    return filmed(identity, [motion.state(frame) for frame in range(len(motion) - frames, len(motion))], size)


def filmed(identity: Identity, states: Sequence[FaceState], size: int) -> Film:
    """The person in these states, one a frame."""
    pictures = np.stack([draw(identity, state, size, size) for state in states])
    boxes = [[mouth_box(identity, state, size, size), face_box(identity, state, size, size)] for state in states]
    return pictures, np.array(boxes, np.float32)


def _performed(chance: np.random.Generator, frames: int) -> Motion:
    """Somebody speaks, feels and acts; at least `frames` long."""
    length = frames + int(chance.integers(LEAD))
    phones = _babble(chance, length / FPS)
    mouth = mouth_track(phones, length, FPS)
    spoken = viseme_track(phones, length, FPS) > 0
    energy = spoken * np.clip(0.3 + 0.6 * mouth[:, 0] + chance.normal(0, 0.15, length), 0, 1)
    emotions, actions = (_switched(chance, len(names), length) for names in (EMOTIONS, ACTIONS))
    return perform(chance, mouth, energy.astype(np.float32), emotions, actions)


def _babble(chance: np.random.Generator, seconds: float) -> list[Phone]:
    """Phonemes in no order, as long as spoken ones, with pauses."""
    phones, now = [], -float(chance.uniform(0, 0.5))
    while now < seconds:
        silent = chance.random() < PAUSE
        length = chance.uniform(0.15, 0.6) if silent else np.clip(chance.lognormal(-2.5, 0.4), 0.03, 0.25)
        phones.append(Phone(SILENCE if silent else str(chance.choice(SYMBOLS)), now, now + float(length)))
        now += float(length)
    return phones


def _switched(chance: np.random.Generator, kinds: int, length: int) -> NDArray[np.int64]:
    """One of the kinds, and from some frame on another: [length]."""
    before, after = chance.integers(kinds, size=2)
    return np.where(np.arange(length) < chance.integers(2 * length), before, after)


def _wild(chance: np.random.Generator, frames: int) -> Motion:
    """Every value moves on its own and is anywhere in its range equally often; most hands stay down."""
    tracks = {}
    for name in STATE:
        wave = _wave(chance, frames, chance.uniform(0.4, 1.0) if name in QUICK else chance.uniform(2.0, 5.0))
        tracks[name] = REACH * (2 * wave - 1) if name in SIGNED else 0.5 + REACH * (wave - 0.5)
    if chance.random() < 0.8:
        tracks["hand"] = np.zeros(frames)
    return Motion(**{name: track.astype(np.float32) for name, track in tracks.items()})


def _wave(chance: np.random.Generator, frames: int, smoothness: float) -> NDArray[np.float64]:
    """Noise smoothed over a Gaussian of that many frames' deviation, spread evenly over 0..1: [frames]."""
    reach = int(4 * smoothness) + 1
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / smoothness) ** 2)
    noise = np.convolve(chance.normal(size=frames + 2 * reach), kernel / np.linalg.norm(kernel), mode="valid")
    return torch.special.ndtr(torch.from_numpy(noise)).numpy()
