"""An independent judge of what was said: `hama` hears phonemes in the voice, and the mouth that is seen has to fit them.

It shares nothing with the world's own phoneme times or with the model. Its spans come from a CTC network and are coarse: what
it says of the rendered truth is the most that anything can score.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from liveact_models.evaluate.lips import Agreement, agreement, agreements
from liveact_models.training import MissingExtra
from liveact_models.world.clip import FPS, RATE
from liveact_models.world.mouth import MOUTH, Phone, mouth_track
from liveact_models.world.voices.ipa import symbols

LONGEST = 0.15
"""Seconds a phoneme is taken to last at most: a span ends where the next phoneme begins, be it after a pause."""
SHIFT_STEP = 0.01
SHIFT_STEPS = range(-12, 13)
CLASSES: dict[str, frozenset[str]] = {
    "closed": frozenset("pbm"),
    "teeth": frozenset("fvsz"),
    "open": frozenset(("a", "ɑ", "æ", "ɒ", "aɪ", "aʊ", "ʌ")),
    "spread": frozenset(("i", "ɪ", "e", "eɪ")),
    "round": frozenset(("u", "ʊ", "w", "o", "oʊ", "ɔ", "ʃ", "tʃ")),
}
"""Phonemes that a viewer can tell apart by the lips, by what they show."""


@dataclass(frozen=True)
class PhonemeReport:
    """Of several videos: how the mouth fits what hama heard."""

    agreement: dict[str, Agreement]
    """Of every channel of the mouth with the mouth that hama's phonemes ask for."""
    by_class: dict[str, dict[str, float]]
    """Mean of every channel while a class of phonemes sounds, by class and channel, and how many phonemes "count"."""

    @property
    def closes(self) -> float:
        """By how much wider the mouth stands at open phonemes than at closed ones: 0 is a mouth that hears nothing."""
        return self.by_class["open"]["open"] - self.by_class["closed"]["open"]

    @property
    def rounds(self) -> float:
        """By how much rounder the mouth is at round phonemes than at spread ones."""
        return self.by_class["round"]["round"] - self.by_class["spread"]["round"]


@cache
def _hama() -> Any:
    try:
        from hama import ASRModel
    except ImportError:
        raise MissingExtra("hama") from None
    return ASRModel()


def hear(samples: NDArray[np.float32]) -> tuple[Phone, ...]:
    """The phonemes hama hears in a voice [n] at 16 kHz, in the symbols of `world.mouth`; unknown ones are left out.

    Raises `MissingExtra` where hama is not installed.
    """
    model = _hama()
    phones: list[Phone] = []
    for span in model.phoneme_spans(model.transcribe_waveform(samples, RATE)):
        start, end = span.start_ms / 1e3, min(span.end_ms / 1e3, span.start_ms / 1e3 + LONGEST)
        if span.phoneme in ("<unk>", "<pad>", "<sos>", "<eos>"):
            continue
        known = _known(span.phoneme)
        turns = np.linspace(start, end, len(known) + 1)
        phones += [Phone(symbol, *map(float, turns[at : at + 2])) for at, symbol in enumerate(known)]
    return tuple(phones)


def _known(phoneme: str) -> tuple[str, ...]:
    """The table's symbols for a token, its combining marks left out; none for a sign that is no sound."""
    bare = "".join(letter for letter in unicodedata.normalize("NFD", phoneme) if not unicodedata.combining(letter))
    try:
        return symbols(bare)
    except ValueError:
        return ()


def shifted(phones: Sequence[Phone], seconds: float) -> tuple[Phone, ...]:
    """The same phonemes so much later."""
    return tuple(Phone(phone.symbol, phone.start + seconds, phone.end + seconds) for phone in phones)


def best_shift(heard: Sequence[Sequence[Phone]], mouths: Sequence[NDArray[np.float32]]) -> float:
    """By how many seconds what was heard has to be shifted to fit the opening of mouths [T_i, 4] best.

    A network that writes a phoneme down when it is sure of it writes all of them late. Measured on the truth, once.
    """

    def fit(seconds: float) -> float:
        tracks = [
            mouth_track(shifted(phones, seconds), len(mouth), FPS) for phones, mouth in zip(heard, mouths, strict=True)
        ]
        return agreement([track[:, 0] for track in tracks], [mouth[:, 0] for mouth in mouths]).r

    return max((round(step * SHIFT_STEP, 3) for step in SHIFT_STEPS), key=fit)


def phoneme_report(heard: Sequence[Sequence[Phone]], mouths: Sequence[NDArray[np.float32]]) -> PhonemeReport:
    """Compare mouths [T_i, 4] seen at 20 fps with what was heard while they moved.

    Raises `ValueError` for lists of unequal length.
    """
    if len(heard) != len(mouths):
        raise ValueError(f"{len(heard)} voices and {len(mouths)} mouths: accepted is one of each for every video")
    sums = {name: np.zeros(len(MOUTH) + 1) for name in CLASSES}
    for phones, mouth in zip(heard, mouths, strict=True):
        for phone in phones:
            at = round((phone.start + phone.end) / 2 * FPS - 0.5)
            for name, members in CLASSES.items():
                if phone.symbol in members and 0 <= at < len(mouth):
                    sums[name] += (*mouth[at], 1.0)
    by_class = {}
    for name, total in sums.items():
        means = total[:-1] / total[-1] if total[-1] else np.full(len(MOUTH), np.nan)
        by_class[name] = dict(zip(MOUTH, map(float, means), strict=True)) | {"count": float(total[-1])}
    expected = [mouth_track(phones, len(mouth), FPS) for phones, mouth in zip(heard, mouths, strict=True)]
    return PhonemeReport(agreements(expected, mouths), by_class)
