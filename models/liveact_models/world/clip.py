"""A clip of the synthetic world: a person, what they say and how they move, with the truth of every frame.

All of it follows from the seed; nothing is drawn before it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from liveact_models.timeline import AUDIO_REACH, block_frames, block_of_frame
from liveact_models.world.captions import prompt
from liveact_models.world.draw import draw
from liveact_models.world.face import FaceState
from liveact_models.world.identity import Identity
from liveact_models.world.motion import ACTIONS, EMOTIONS, Motion, perform
from liveact_models.world.mouth import mouth_track
from liveact_models.world.sentences import SPLITS, Split
from liveact_models.world.voices import speech

if TYPE_CHECKING:
    from liveact_models.world.voices import Utterance, Voice

FPS = 20
RATE = 16000
EDITED = 0.5
"""Share of clips in which somebody asks for another emotion or action at a later block."""
PLAIN = 0.35
"""Share of prompts that ask for neither."""


@dataclass(frozen=True)
class Cue:
    """What is asked for from a video frame on."""

    frame: int
    emotion: str
    action: str
    prompt: str


@dataclass(frozen=True)
class Clip:
    """T video frames at 20 fps and their sound. Arrays are float32 unless said."""

    seed: int
    size: int
    identity: Identity
    utterance: Utterance
    cues: tuple[Cue, ...]
    mouth: NDArray[np.float32]
    """[T, 4], see `world.mouth.MOUTH`."""
    motion: Motion

    @property
    def samples(self) -> NDArray[np.float32]:
        """The sound [(T + 2) * 800] at 16 kHz: the last block hears two frames beyond its own."""
        return self.utterance.samples

    @property
    def length(self) -> int:
        return len(self.mouth)

    @property
    def prompts(self) -> list[tuple[int, str]]:
        return [(cue.frame, cue.prompt) for cue in self.cues]

    @property
    def emotions(self) -> NDArray[np.int64]:
        """[T], index into EMOTIONS."""
        return _spread([(cue.frame, EMOTIONS.index(cue.emotion)) for cue in self.cues], self.length)

    @property
    def actions(self) -> NDArray[np.int64]:
        """[T], index into ACTIONS."""
        return _spread([(cue.frame, ACTIONS.index(cue.action)) for cue in self.cues], self.length)

    def frames(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Pictures [stop - start, size, size, 3]."""
        stop = self.length if stop is None else stop
        return np.stack([draw(self.identity, self.motion.state(i), self.size, self.size) for i in range(start, stop)])

    def portrait(self, size: int | None = None) -> NDArray[np.uint8]:
        """The person at rest [size, size, 3]: what a user would upload."""
        size = size or self.size
        return draw(self.identity, FaceState(), size, size)


def make_clip(
    seed: int,
    frames: int,
    split: Split = "train",
    size: int = 128,
    voice: str | Voice | None = None,
    asked: Sequence[tuple[int, str, str]] | None = None,
) -> Clip:
    """The clip of that seed.

    Args:
        seed: together with `split` it fixes everything.
        frames: length in video frames.
        split: "train" or "test": sentences and people of one never occur in the other.
        size: side of the picture in pixels.
        voice: a voice, or the name of one; without it one of the trained voices.
        asked: (first frame, emotion, action) in place of random ones.

    Raises:
        ValueError: an unknown split, voice, emotion or action.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: accepted are {', '.join(SPLITS)}")
    people, cueing, moving = (np.random.default_rng([seed, SPLITS.index(split), part]) for part in range(3))
    utterance = speech(2 * seed + SPLITS.index(split), (frames + AUDIO_REACH) / FPS, split, voice)
    mouth = mouth_track(utterance.phones, frames, FPS)
    cues = _cues(cueing, frames) if asked is None else [_cue(frame, e, a, cueing) for frame, e, a in asked]
    emotions = _spread([(cue.frame, EMOTIONS.index(cue.emotion)) for cue in cues], frames)
    actions = _spread([(cue.frame, ACTIONS.index(cue.action)) for cue in cues], frames)
    motion = perform(moving, mouth, energy(utterance.samples, frames), emotions, actions)
    return Clip(seed, size, Identity.sample(people), utterance, tuple(cues), mouth, motion)


def energy(samples: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
    """Loudness of every frame [frames] between 0 and 1, relative to the clip's own loud frames."""
    per_frame = RATE // FPS
    sound = np.pad(samples[: frames * per_frame], (0, max(0, frames * per_frame - len(samples))))
    level = np.sqrt(np.square(sound.reshape(frames, per_frame)).mean(axis=1))
    return np.clip(level / max(float(np.percentile(level, 95)), 1e-3), 0, 1).astype(np.float32)


def _cues(rng: np.random.Generator, frames: int) -> list[Cue]:
    """What is asked for at the start and, in half of the clips, something else from a later block on."""
    cues = [_cue(0, *_wish(rng), rng)]
    last = block_of_frame(frames - 1)
    if last > 0 and rng.random() < EDITED:
        cues.append(_cue(block_frames(int(rng.integers(1, last + 1))).start, *_wish(rng), rng))
    return cues


def _wish(rng: np.random.Generator) -> tuple[str, str]:
    if rng.random() < PLAIN:
        return EMOTIONS[0], ACTIONS[0]
    return str(rng.choice(EMOTIONS)), str(rng.choice(ACTIONS)) if rng.random() < 0.5 else ACTIONS[0]


def _cue(frame: int, emotion: str, action: str, rng: np.random.Generator) -> Cue:
    for value, accepted in ((emotion, EMOTIONS), (action, ACTIONS)):
        if value not in accepted:
            raise ValueError(f"{value!r}: accepted are {', '.join(accepted)}")
    return Cue(frame, emotion, action, prompt(emotion, action, rng))


def _spread(changes: list[tuple[int, int]], frames: int) -> NDArray[np.int64]:
    values = np.zeros(frames, np.int64)
    for frame, value in changes:
        values[frame:] = value
    return values
