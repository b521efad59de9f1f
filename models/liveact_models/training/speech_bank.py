"""Speech with the truth of its mouth, kept on disk, and the windows of it that the audio encoder learns from.

A window is what `voice.VoiceBuffer.window` cuts for a block of a session that began somewhere in the passage, prepared by
the very function that inference prepares it with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from liveact_models.timeline import (
    AUDIO_REACH,
    AUDIO_WINDOW_FRAMES,
    audio_window_start,
    block_frames,
    block_sound_frames,
)
from liveact_models.training.draws import rng
from liveact_models.training.roughen import roughened
from liveact_models.voice import BlockVoice, prepare_window
from liveact_models.voice.prepare import ENCODER_RATE
from liveact_models.world.mouth import REST, mouth_track, viseme_track

Array = NDArray[np.float32]

PASSAGE_SECONDS = 20.0
TRACK_RATE = 100
"""Values a second of the tracks that are kept, so that a window may begin anywhere and run at any speed."""
PHRASE_GAP = 0.2
"""Seconds of silence that end a phrase."""
PHRASE_MEMORY = 0.3
"""Seconds in which the marks of a phrase's start and end fade to 1/e."""
CUES = ("energy", "onset", "offset")
"""What head and eyes follow: loudness of a frame, how fresh the phrase's start is, how fresh its end."""
SPEED = 0.06
"""Standard deviation of the logarithm of how much faster, and higher, half of the windows are played."""
FIRST_BLOCKS = (0.4, 0.4, 0.1, 0.1)
MUTED_SHARE = 0.15
"""Share of windows in which the speech begins late or ends early."""
PCM_PEAK = 32767
FIRST_SEED = 1 << 32
"""Of the bank's speech: clips of the world have small seeds, so they say other things."""
UNREAD_WEIGHT = 0.25
"""Of frames that are heard but whose features no block reads from this window."""


@dataclass(frozen=True)
class Passage:
    """`PASSAGE_SECONDS` of speech; the tracks' entry i stands for the time (i + 0.5) / `TRACK_RATE`."""

    samples: NDArray[np.float32]
    """[n] at 16 kHz; 16 bits a sample on disk."""
    mouth: NDArray[np.float16]
    """[m, 4]."""
    visemes: NDArray[np.int8]
    """[m]."""
    cues: NDArray[np.float16]
    """[m, 3], see `CUES`."""

    @classmethod
    def spoken(cls, number: int) -> Passage:
        """The passage of that number, from the trained voices and the train split's sentences."""
        from liveact_models.world.voices import speech

        utterance = speech(FIRST_SEED + number, PASSAGE_SECONDS, "train")
        entries = round(PASSAGE_SECONDS * TRACK_RATE)
        visemes = viseme_track(utterance.phones, entries, TRACK_RATE)
        return cls(
            samples=utterance.samples,
            mouth=mouth_track(utterance.phones, entries, TRACK_RATE).astype(np.float16),
            visemes=visemes.astype(np.int8),
            cues=_cues(utterance.samples, visemes > 0).astype(np.float16),
        )

    def save(self, path: Path) -> None:
        """Whole or not at all."""
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            pcm = np.round(np.clip(self.samples, -1, 1) * PCM_PEAK).astype(np.int16)
            np.savez(file, samples=pcm, mouth=self.mouth, visemes=self.visemes, cues=self.cues)
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Passage:
        with np.load(path) as arrays:
            return cls(**{**arrays, "samples": arrays["samples"].astype(np.float32) / PCM_PEAK})

    @cached_property
    def level(self) -> float:
        """Root mean square of the sound."""
        return float(np.sqrt(np.square(self.samples).mean()))


@dataclass(frozen=True)
class Windows:
    """B windows of T = `AUDIO_WINDOW_FRAMES` video frames, with the truth of every frame."""

    sound: torch.Tensor
    """[B, samples], prepared: what the encoder is given."""
    mouth: torch.Tensor
    """[B, T, 4]."""
    visemes: torch.Tensor
    """int64 [B, T]."""
    cues: torch.Tensor
    """[B, T, 3]."""
    weight: torch.Tensor
    """[B, T]: 1 where a block reads the frame's features, 0 where the frame is not heard."""

    def to(self, device: torch.device) -> Windows:
        return Windows(*(getattr(self, item.name).to(device) for item in fields(self)))


class SpeechBank:
    """Passages on disk, read whole into memory."""

    def __init__(self, folder: Path, passages: int, fps: int) -> None:
        """`fps`: video frames a second; the sound must need no stretching (trained_fps == fps)."""
        self.folder = folder
        self.fps = fps
        self._wanted = passages
        self._passages: list[Passage] = []

    def build(self, rank: int = 0, size: int = 1) -> Iterator[tuple[int, int]]:
        """Make this worker's share of what is not on disk yet; yields how many are done, and of how many."""
        self.folder.mkdir(parents=True, exist_ok=True)
        share = range(rank, self._wanted, size)
        for done, number in enumerate(share):
            if not self._path(number).exists():
                Passage.spoken(number).save(self._path(number))
            yield done + 1, len(share)

    def load(self) -> None:
        """Read the passages; every worker's share must be built."""
        self._passages = [Passage.load(self._path(number)) for number in range(self._wanted)]

    @property
    def loaded(self) -> bool:
        return bool(self._passages)

    def windows(self, keys: Sequence[tuple[int, ...]]) -> Windows:
        """One window a key; what is drawn depends on its key alone."""
        drawn = [self._window(rng(*key)) for key in keys]
        sound, mouth, visemes, cues, weight = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
        return Windows(sound, mouth, visemes, cues, weight)

    def _window(self, draw: np.random.Generator) -> tuple[Array, Array, NDArray[np.int64], Array, Array]:
        passage, other = (self._passages[int(i)] for i in draw.integers(len(self._passages), size=2))
        speed = float(np.exp(draw.normal(0, SPEED))) if draw.random() < 0.5 else 1.0
        per_frame = ENCODER_RATE / self.fps * speed  # samples of the passage that a video frame takes
        block = _block(draw, int(len(passage.samples) / per_frame))
        first, heard, read = audio_window_start(block), block_sound_frames(block), block_frames(block)
        begin = int(draw.uniform(0, len(passage.samples) - heard.stop * per_frame))  # where the session begins
        rows = np.arange(first, first + AUDIO_WINDOW_FRAMES)
        count = round(AUDIO_WINDOW_FRAMES * ENCODER_RATE / self.fps)
        at = begin + round(first * per_frame)

        now = (begin + (rows + 0.5) * per_frame) / ENCODER_RATE * TRACK_RATE - 0.5
        mouth, cues = _between(passage.mouth, now), _between(passage.cues, now)
        visemes = passage.visemes[np.clip(np.round(now), 0, len(passage.visemes) - 1).astype(int)].astype(np.int64)
        silent = _falls_silent(visemes, draw)
        visemes[silent], mouth[silent], cues[silent] = 0, REST, 0

        audible = (rows >= 0) & (rows < heard.stop)
        played, babble = (_played(part.samples, at, speed, count) for part in (passage, other))
        speaks, reaches = (np.repeat(frames, count // AUDIO_WINDOW_FRAMES) for frames in (~silent, audible))
        samples = roughened(played * speaks, passage.level, babble, draw)
        samples *= reaches
        if draw.random() < 0.5:
            samples *= speaks  # nothing comes from the microphone at all, not even noise
        spoken = passage.samples[begin : int(begin + heard.stop * per_frame)]
        voice = BlockVoice(samples, ENCODER_RATE, self.fps, float(spoken.mean()), float(spoken.std()))
        needed = (rows >= read.start - AUDIO_REACH) & (rows < read.stop + AUDIO_REACH)
        weight = np.where(needed, 1.0, UNREAD_WEIGHT) * audible
        return prepare_window(voice, self.fps), mouth, visemes, cues, weight.astype(np.float32)

    def _path(self, number: int) -> Path:
        return self.folder / f"passage-{number:05d}.npz"


def _block(draw: np.random.Generator, frames: int) -> int:
    """A block whose sound `frames` video frames hold; the first ones, which hear less, more often than others."""
    last = 0
    while block_sound_frames(last + 1).stop <= frames:
        last += 1
    return min(int(draw.choice(4, p=FIRST_BLOCKS)), last) if draw.random() < 0.4 else int(draw.integers(last + 1))


def _falls_silent(visemes: NDArray[np.int64], draw: np.random.Generator) -> NDArray[np.bool_]:
    """Frames [T] to mute: now and then all up to a pause, as when nobody has spoken yet, all after one, or all there are."""
    frames = np.arange(len(visemes))
    pauses = np.flatnonzero(visemes == 0)
    if not pauses.size or draw.random() > MUTED_SHARE:
        return np.zeros(len(visemes), bool)
    pause = int(draw.choice(pauses))
    return (frames < pause, frames > pause, frames >= 0)[int(draw.choice(3, p=(0.5, 0.35, 0.15)))]


def _between(track: NDArray[Any], at: NDArray[np.float64]) -> Array:
    """Values of track [m, channels] at any positions [n], linearly, clamped at the ends: [n, channels]."""
    at = np.clip(at, 0, len(track) - 1)
    left = np.minimum(at.astype(np.int64), len(track) - 2)
    share = (at - left).astype(np.float32)[:, None]
    return np.asarray(track[left] * (1 - share) + track[left + 1] * share, np.float32)


def _played(samples: Array, begin: int, speed: float, count: int) -> Array:
    """`count` samples from position `begin` on, played `speed` times as fast; zeros past the ends."""
    reach = math.ceil(speed * count) + 1
    part = samples[max(begin, 0) : begin + reach]
    part = np.pad(part, (max(-begin, 0), 0))
    part = np.pad(part, (0, reach - len(part)))
    if speed == 1:
        return part[:count]
    return np.interp(speed * np.arange(count), np.arange(reach), part).astype(np.float32)


def _cues(samples: Array, speaking: NDArray[np.bool_]) -> Array:
    """[m, 3] of sound and of whether somebody speaks [m]."""
    hop, reach = ENCODER_RATE // TRACK_RATE, ENCODER_RATE // 40  # the 50 ms around each entry, a video frame's worth
    power = np.pad(np.cumsum(np.square(samples, dtype=np.float64)), (1, 0))
    middle = np.arange(len(speaking)) * hop + hop // 2
    low, high = np.maximum(middle - reach, 0), np.minimum(middle + reach, len(samples))
    level = np.sqrt((power[high] - power[low]) / (high - low))
    energy = np.clip(level / max(float(np.percentile(level, 95)), 1e-3), 0, 1)
    phrase = _closed(speaking, round(PHRASE_GAP * TRACK_RATE))
    return np.stack([energy, *(_freshness(state) for state in (phrase, ~phrase))], axis=1).astype(np.float32)


def _closed(speaking: NDArray[np.bool_], gap: int) -> NDArray[np.bool_]:
    """Whether a phrase is under way: gaps of up to `gap` entries inside one are bridged."""
    spoken = np.flatnonzero(speaking)
    phrase = speaking.copy()
    for left, right in pairwise(spoken):
        if 1 < right - left <= gap:
            phrase[left:right] = True
    return phrase


def _freshness(state: NDArray[np.bool_]) -> Array:
    """exp(-age / PHRASE_MEMORY) while the state lasts, age counting from its last beginning; 0 while it does not."""
    entries = np.arange(len(state))
    began = np.where(state & ~np.pad(state, (1, 0))[:-1], entries, -1)
    age = (entries - np.maximum.accumulate(began)) / TRACK_RATE
    return np.where(state, np.exp(-age / PHRASE_MEMORY), 0).astype(np.float32)
