"""What the mouth does while a phoneme is spoken: targets by articulation, smoothed into a curve for each frame.

One table of IPA-like symbols serves every voice engine. A target says how the mouth looks, its weight how much the phoneme
insists: a /p/ closes the lips whatever stands beside it, a /k/ leaves them to its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

MOUTH = ("open", "width", "round", "teeth")
"""The columns of a mouth track, each in [0, 1].

open: jaw and lips apart; width: corners stretched, 0.5 neutral; round: lips protruded; teeth: upper teeth seen or the tongue
against them.
"""
REST = (0.0, 0.5, 0.0, 0.0)
SILENCE = "sil"
SMOOTHING = 0.035
"""Standard deviation of the smoothing, in seconds."""


@dataclass(frozen=True)
class Phone:
    """A phoneme and when it sounds, in seconds from the utterance's first sample."""

    symbol: str
    start: float
    end: float


@dataclass(frozen=True)
class Articulation:
    """How a phoneme shapes the mouth; `values` and `weights` in the order of `MOUTH`."""

    viseme: str
    values: tuple[float, float, float, float]
    weights: tuple[float, float, float, float]


# symbols, viseme, (open, width, round, teeth), their weights
_ROWS: tuple[tuple[str, str, tuple[float, float, float, float], tuple[float, float, float, float]], ...] = (
    (SILENCE, "silence", REST, (1.0, 0.6, 0.6, 1.0)),
    # Lips closed: short, and yet nothing may hold them open.
    ("p b m", "lips", (0.0, 0.45, 0.05, 0.0), (9.0, 0.8, 0.8, 5.0)),
    ("f v ɱ", "lip and teeth", (0.1, 0.5, 0.0, 1.0), (5.0, 0.8, 1.0, 5.0)),
    ("β ʋ", "lip and teeth", (0.12, 0.45, 0.15, 0.5), (3.0, 0.8, 0.8, 2.0)),
    ("θ ð", "tongue and teeth", (0.24, 0.52, 0.0, 0.9), (2.0, 0.7, 0.8, 3.0)),
    ("t d n ɾ", "ridge", (0.22, 0.55, 0.0, 0.5), (0.7, 0.4, 0.3, 1.0)),
    ("l ɫ ɬ", "ridge", (0.36, 0.52, 0.0, 0.35), (0.8, 0.4, 0.3, 0.8)),
    ("s z", "hiss", (0.14, 0.72, 0.0, 1.0), (2.0, 1.2, 0.8, 3.0)),
    ("ʃ ʒ ɕ ʑ ʂ", "hush", (0.2, 0.35, 0.6, 0.9), (2.0, 1.2, 1.6, 3.0)),
    ("k ɡ ŋ x ɣ ç ɲ", "back", (0.32, 0.5, 0.0, 0.2), (0.5, 0.2, 0.15, 0.4)),
    ("h ʔ ʁ", "back", (0.42, 0.5, 0.0, 0.15), (0.3, 0.15, 0.1, 0.3)),
    ("ɹ", "r", (0.26, 0.4, 0.45, 0.3), (1.0, 0.8, 1.0, 0.8)),
    ("r", "r", (0.3, 0.5, 0.05, 0.35), (0.8, 0.4, 0.3, 0.8)),
    ("w ɥ", "w", (0.12, 0.15, 1.0, 0.0), (2.5, 1.6, 2.5, 1.5)),
    ("j", "close front", (0.2, 0.78, 0.0, 0.5), (1.0, 1.0, 0.8, 0.8)),
    ("i", "close front", (0.28, 0.92, 0.0, 0.55), (1.2, 1.2, 1.0, 1.0)),
    ("ɪ ɨ", "close front", (0.38, 0.72, 0.0, 0.45), (1.0, 0.9, 0.9, 0.9)),
    ("e", "mid", (0.48, 0.8, 0.0, 0.45), (1.0, 1.0, 1.0, 0.9)),
    ("ɛ", "mid", (0.62, 0.7, 0.0, 0.4), (1.0, 0.9, 1.0, 0.9)),
    ("ə ɐ", "mid", (0.44, 0.5, 0.0, 0.25), (0.7, 0.5, 0.6, 0.6)),
    ("ʌ", "mid", (0.7, 0.5, 0.0, 0.3), (1.0, 0.7, 0.9, 0.8)),
    ("ɜ", "mid", (0.48, 0.4, 0.35, 0.25), (1.0, 0.8, 0.9, 0.8)),
    ("æ", "open", (0.85, 0.78, 0.0, 0.45), (1.2, 1.0, 1.0, 0.9)),
    ("a", "open", (0.98, 0.58, 0.0, 0.3), (1.2, 0.8, 1.0, 0.9)),
    ("ɑ", "open", (1.0, 0.46, 0.0, 0.2), (1.2, 0.8, 1.0, 0.9)),
    ("ɒ", "round mid", (0.82, 0.34, 0.4, 0.1), (1.2, 1.0, 1.1, 0.9)),
    ("ɔ", "round mid", (0.7, 0.28, 0.6, 0.1), (1.1, 1.0, 1.2, 0.9)),
    ("o ɤ ɵ", "round mid", (0.54, 0.22, 0.8, 0.05), (1.1, 1.1, 1.3, 0.9)),
    ("ø œ", "round mid", (0.42, 0.34, 0.7, 0.1), (1.0, 1.0, 1.2, 0.9)),
    ("ʊ", "round close", (0.36, 0.28, 0.65, 0.05), (1.0, 1.0, 1.2, 0.9)),
    ("u ɯ", "round close", (0.26, 0.1, 0.95, 0.0), (1.2, 1.2, 1.4, 1.0)),
    ("y ʉ ʏ", "round close", (0.2, 0.22, 0.9, 0.1), (1.2, 1.2, 1.4, 1.0)),
)
ARTICULATIONS: dict[str, Articulation] = {
    symbol: Articulation(viseme, values, weights) for row, viseme, values, weights in _ROWS for symbol in row.split()
}
COMPOUND = ("aɪ", "aʊ", "eɪ", "oʊ", "ɔɪ", "əʊ", "tʃ", "dʒ", "ts", "dz")
"""Diphthongs and affricates, each of two simple phonemes."""
_PARTS: dict[str, tuple[str, str, float]] = {
    **{pair: (pair[0], pair[1], 0.55) for pair in COMPOUND},
    # After its burst a stop leaves the mouth to what follows.
    **{stop: (stop, "h", 0.6) for stop in "ptk"},
    **{stop: (stop, "h", 0.75) for stop in "bdɡ"},
}
"""Phonemes whose mouth changes midway: both parts, and the share of the time that is the first one's."""
VISEMES = tuple(dict.fromkeys(articulation.viseme for articulation in ARTICULATIONS.values()))
"""Classes of phonemes that look alike; class 0 is silence."""


def articulation(symbol: str) -> Articulation:
    """The table's row for a simple phoneme; ValueError for any other symbol."""
    try:
        return ARTICULATIONS[symbol]
    except KeyError:
        raise ValueError(f"phoneme {symbol!r} is not in the table; it has {' '.join(SYMBOLS)}") from None


SYMBOLS = (*ARTICULATIONS, *COMPOUND)
"""Every symbol that a Phone may carry."""


def targets(symbol: str) -> tuple[np.ndarray, np.ndarray]:
    """Target values and weights (float32 [4] each, in the order of `MOUTH`); those of the first part for a compound."""
    shape = articulation(_PARTS[symbol][0] if symbol in _PARTS else symbol)
    return np.array(shape.values, np.float32), np.array(shape.weights, np.float32)


def mouth_track(phones: Sequence[Phone], frames: int, fps: float) -> np.ndarray:
    """The mouth at the middle of each frame: float32 [frames, 4].

    At time t the value is the mean of all targets, weighted by the phoneme's weight times the share of a Gaussian around t
    (sigma `SMOOTHING`) that falls into the phoneme. Time that no phone covers is silence.
    """
    parts = list(_covered(phones, frames / fps))
    edges = torch.tensor([(start, end) for _, start, end in parts], dtype=torch.float64)  # [parts, 2]
    values = np.array([shape.values for shape, _, _ in parts])  # [parts, 4]
    weights = np.array([shape.weights for shape, _, _ in parts])
    middles = (torch.arange(frames, dtype=torch.float64) + 0.5) / fps  # [frames]
    cumulative = torch.special.ndtr((edges[None] - middles[:, None, None]) / SMOOTHING)  # [frames, parts, 2]
    share = (cumulative[..., 1] - cumulative[..., 0]).numpy()
    return ((share @ (weights * values)) / (share @ weights)).astype(np.float32)


def viseme_track(phones: Sequence[Phone], frames: int, fps: float) -> np.ndarray:
    """The index in `VISEMES` of what is spoken at the middle of each frame: int64 [frames]."""
    track = np.zeros(frames, np.int64)
    for shape, start, end in _covered(phones, frames / fps):
        first, stop = (max(0, int(np.ceil(time * fps - 0.5))) for time in (start, end))
        track[first:stop] = VISEMES.index(shape.viseme)
    return track


def _covered(phones: Sequence[Phone], seconds: float) -> Iterator[tuple[Articulation, float, float]]:
    """The simple articulations from long before 0 to long after `seconds`, silence where no phone is."""
    beyond = 1.0
    now = -beyond
    for phone in phones:
        if phone.start > now:
            yield ARTICULATIONS[SILENCE], now, phone.start
        first, second, share = _PARTS.get(phone.symbol, (phone.symbol, phone.symbol, 1.0))
        turn = phone.start + share * (phone.end - phone.start)
        yield articulation(first), phone.start, turn
        if share < 1.0:
            yield articulation(second), turn, phone.end
        now = max(now, phone.end)
    yield ARTICULATIONS[SILENCE], now, max(now, seconds) + beyond
