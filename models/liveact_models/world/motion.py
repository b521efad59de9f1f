"""How a performance moves: head, brows, lids, gaze and hand from what is said and what is asked for.

Nothing large moves without a cause that a model could learn from: the head follows loudness and the starts of phrases, blinks
follow the ends of phrases, and asked-for actions start where they are asked for. Only a slow small sway is left to chance.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from liveact_models.world.face import STATE, FaceState

Track = NDArray[np.float32]
Curve = NDArray[np.float64]
Tracks = dict[str, Curve]

FPS = 20
EMOTIONS = ("neutral", "happy", "sad", "angry", "surprised")
ACTIONS = ("none", "nod", "shake", "look aside", "wave")
EXPRESSIONS: dict[str, dict[str, float]] = {
    "neutral": {},
    "happy": {"smile": 1.0, "cheek": 0.8, "brow_raise": 0.15},
    "sad": {"smile": -1.0, "pitch": 0.25, "gaze_y": 0.35},
    "angry": {"smile": -0.45, "brow_frown": 1.0, "pitch": 0.15},
    "surprised": {"brow_raise": 1.0, "smile": 0.0},
}
"""What each emotion adds to a face at rest."""
EASE = 10
"""Frames in which an emotion settles."""
FADE = 8
"""Frames in which a hand comes up and any action is over."""
BLINK = np.array((0.45, 1.0, 0.9, 0.35), np.float32)
BLINK_DELAY = 0.15
"""Seconds from a phrase's edge to the blink."""
SIGNED = frozenset(("yaw", "pitch", "roll", "shift_x", "shift_y", "gaze_x", "gaze_y", "smile", "hand_swing"))
"""Values in -1..1; the others are in 0..1."""
SPEAKING, PAUSE = 0.12, 4
"""Loudness of speech, and the frames of quiet that end a phrase."""


@dataclass(frozen=True)
class Motion:
    """One float32 array [T] for every value of a `FaceState`, T frames at 20 fps."""

    yaw: Track
    pitch: Track
    roll: Track
    shift_x: Track
    shift_y: Track
    blink: Track
    gaze_x: Track
    gaze_y: Track
    brow_raise: Track
    brow_frown: Track
    smile: Track
    cheek: Track
    open: Track
    width: Track
    round: Track
    teeth: Track
    hand: Track
    hand_swing: Track

    def __len__(self) -> int:
        return len(self.yaw)

    def state(self, frame: int) -> FaceState:
        """The face of one frame."""
        return FaceState(*(float(getattr(self, item.name)[frame]) for item in fields(self)))

    def table(self) -> Track:
        """All of it [T, names], columns in the order of `face.STATE`."""
        return np.stack([getattr(self, name) for name in STATE], axis=1)


def perform(
    rng: np.random.Generator,
    mouth: NDArray[np.float32],
    energy: NDArray[np.float32],
    emotions: NDArray[np.int64],
    actions: NDArray[np.int64],
) -> Motion:
    """A performance of what is said.

    Args:
        rng: settles the sway, the few blinks without a cause and a person's liveliness.
        mouth: [T, 4], open, width, round, teeth of every frame.
        energy: [T], loudness in 0..1.
        emotions: [T], index into `EMOTIONS`, what is asked for in every frame.
        actions: [T], index into `ACTIONS`.

    Raises:
        ValueError: the lengths differ or an index is out of range.
    """
    frames = len(mouth)
    if mouth.shape != (frames, 4) or any(track.shape != (frames,) for track in (energy, emotions, actions)):
        shapes = ", ".join(str(track.shape) for track in (mouth, energy, emotions, actions))
        raise ValueError(f"mouth, energy, emotions, actions of shapes {shapes}: accepted are [T, 4], [T], [T], [T]")
    for track, names in ((emotions, EMOTIONS), (actions, ACTIONS)):
        if frames and (track.min() < 0 or track.max() >= len(names)):
            raise ValueError(
                f"index {int(track.min())}..{int(track.max())}: accepted are 0..{len(names) - 1} ({', '.join(names)})"
            )
    tracks = {name: np.zeros(frames) for name in STATE}
    for column, name in enumerate(("open", "width", "round", "teeth")):
        tracks[name] += mouth[:, column]
    if frames:
        phrases = _phrases(energy)
        _sway(tracks, rng)
        _speak(tracks, energy.astype(np.float64), phrases, float(rng.uniform(0.8, 1.2)))
        _feel(tracks, emotions)
        _act(tracks, actions)
        tracks["blink"] += _blinks(rng, frames, phrases)
    return Motion(
        **{
            name: np.clip(track, -1.0 if name in SIGNED else 0.0, 1.0).astype(np.float32)
            for name, track in tracks.items()
        }
    )


def _phrases(energy: NDArray[np.float32]) -> list[tuple[int, int]]:
    """First frame and end of every stretch of speech between pauses."""
    loud = np.flatnonzero(energy > SPEAKING)
    if not len(loud):
        return []
    breaks = [(int(a), int(b)) for a, b in pairwise(loud) if b - a > PAUSE]
    starts = [int(loud[0]), *(b for _, b in breaks)]
    ends = [*(a + 1 for a, _ in breaks), int(loud[-1]) + 1]
    return list(zip(starts, ends, strict=True))


def _follow(track: Curve, frames: float) -> Curve:
    """Follows it with a lag of that many frames, from nothing at the start: what is still to be said moves nobody."""
    keep, level, followed = np.exp(-1.0 / frames), 0.0, np.empty_like(track)
    for frame, value in enumerate(track):
        level = keep * level + (1.0 - keep) * value
        followed[frame] = level
    return followed


def _ease(wanted: Curve, frames: int) -> Curve:
    """Follows steps on a smooth ramp of that many frames which starts with the step, from nothing at the start."""
    ramp = np.hanning(frames + 2)[1:-1]
    return np.convolve(wanted, ramp / ramp.sum())[: len(wanted)]


def _sway(tracks: Tracks, rng: np.random.Generator) -> None:
    """Breathing and balance: small, slow, never still."""
    time = np.arange(len(tracks["yaw"])) / FPS
    for name, amount in (("yaw", 0.10), ("pitch", 0.07), ("roll", 0.10), ("shift_x", 0.10), ("shift_y", 0.12)):
        for period in (rng.uniform(3.0, 4.5), rng.uniform(5.5, 8.0)):
            tracks[name] += amount / 2 * np.sin(2 * np.pi * (time / period + rng.random()))


def _speak(tracks: Tracks, energy: Curve, phrases: list[tuple[int, int]], lively: float) -> None:
    """The head dips where it grows loud, tilts and turns with the phrase, and the brows go up where a phrase starts."""
    loud, slow, trend = _follow(energy, 1.5), _follow(energy, 6.0), _follow(energy, 16.0)
    accent = loud - slow
    tracks["pitch"] += lively * (0.85 * accent + 0.10 * slow)
    tracks["shift_y"] += lively * 0.45 * accent
    tracks["roll"] += lively * (0.9 * trend - 0.3)
    tracks["yaw"] += lively * 1.1 * (slow - trend)
    onset = np.zeros(len(energy))
    for start, _ in phrases:
        onset[start : start + 6] = 1.0
    tracks["brow_raise"] += lively * (0.42 * _ease(onset, 5) + 0.35 * np.maximum(accent, 0.0))


def _feel(tracks: Tracks, emotions: NDArray[np.int64]) -> None:
    """Emotions ease in from the face that was there, a face at rest at the start."""
    for name in sorted({name for expression in EXPRESSIONS.values() for name in expression}):
        wanted = np.array([EXPRESSIONS[emotion].get(name, 0.0) for emotion in EMOTIONS])[emotions]
        tracks[name] += _ease(wanted, EASE)


def _act(tracks: Tracks, actions: NDArray[np.int64]) -> None:
    """Actions grow from the frame they are asked for, in phase with it, and fade after the one that ends them."""
    edges = [0, *(int(edge) + 1 for edge in np.flatnonzero(np.diff(actions))), len(actions)]
    for start, end in pairwise(edges):
        action = ACTIONS[int(actions[start])]
        length = min(len(actions), end + FADE) - start
        asked = (np.arange(length) < end - start).astype(np.float64)
        beat = 2 * np.pi * np.arange(length) / FPS
        span = slice(start, start + length)
        if action == "nod":
            tracks["pitch"][span] += 0.75 * _ease(asked, 5) * np.sin(beat / 0.8)
            tracks["shift_y"][span] += 0.35 * _ease(asked, 5) * np.sin(beat / 0.8)
        elif action == "shake":
            tracks["yaw"][span] += 0.80 * _ease(asked, 5) * np.sin(beat / 0.9)
        elif action == "look aside":
            tracks["yaw"][span] += 0.75 * _ease(asked, 8)
            tracks["gaze_x"][span] += 0.80 * _ease(asked, 5)
        elif action == "wave":
            tracks["hand"][span] += _ease(asked, FADE)
            tracks["hand_swing"][span] += np.sin(beat / 0.7)


def _blinks(rng: np.random.Generator, frames: int, phrases: list[tuple[int, int]]) -> Curve:
    """Blinks after the edges of phrases, and some where nothing was said for long."""
    delay = round(BLINK_DELAY * FPS)
    caused = [edge + delay for phrase in phrases for edge in phrase]
    chance = [int(frame) for frame in np.flatnonzero(rng.random(frames) < 1 / (6 * FPS))]
    track, last = np.zeros(frames + len(BLINK)), -FPS
    for start in sorted([*caused, *chance]):
        if start - last >= FPS // 2 and start < frames:
            track[start : start + len(BLINK)] = BLINK
            last = start
    return track[:frames]
