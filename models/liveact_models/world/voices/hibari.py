"""Voices of hibari-tts: a small neural speaker of English, and others made from it by pitch and size of the throat.

The network predicts durations in units of 25 ms before it predicts the spectrum. They tell the phonemes' times to about
50 ms, and worse before pauses, so an aligner moves them to where the spectrum changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from liveact_models.training import MissingExtra
from liveact_models.world.mouth import SILENCE, Phone
from liveact_models.world.voices.alignment import features
from liveact_models.world.voices.espeak import espeak_aligner
from liveact_models.world.voices.ipa import STRESS, symbols
from liveact_models.world.voices.onnx import with_output
from liveact_models.world.voices.resample import resampled
from liveact_models.world.voices.utterance import RATE, Utterance, join
from liveact_models.world.voices.voice import Voice, VoiceSplit

_DURATIONS = "/Round_output_0"
_UNIT = 0.025
"""Seconds of one unit of duration."""
_LATE = 2
"""Units by which the durations lag behind the sound: measured on vowels, hisses and nasals, all 47-50 ms late."""
_LAST_PAD = "."
_PUNCTUATION = frozenset(';:,.!?—…"()“”')


class _Hibari:
    """The package's own text front end and signal processing around the network with its durations shown."""

    def __init__(self) -> None:
        try:
            from hibari import dsp
            from hibari.tts import Hibari
            from hibari.voices import DEFAULT, voice_path
        except ImportError as error:
            raise MissingExtra("hibari-tts") from error
        self._dsp = dsp
        self._tts: Any = Hibari(model=with_output(Path(voice_path(DEFAULT)), _DURATIONS))

    def sentences(self, text: str) -> list[str]:
        """The text's sentences in the alphabet of the network."""
        return [
            "".join(letter for letter in sentence if letter in self._tts.vocab)
            for sentence in self._tts.phonemize(text)
        ]

    def synthesize(
        self, letters: str, speed: float, pitch: float, throat: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, tuple[Phone, ...]]:
        """16 kHz samples and their phones.

        A longer throat lowers formants and pitch and stretches all alike: the sound is played slower by `throat`, and made faster
        and higher before by as much, so that `speed` and `pitch` alone decide these two.
        """
        ids = np.array([self._tts.ids(letters)], np.int64)
        *parts, durations = self._tts.sess.run(None, {"ids": ids, "speed": np.array([speed * throat], np.float32)})
        *spectrum, f0 = (part[0] for part in parts)  # five of [bins, frames], and [frames]
        sound = self._dsp.synth(*spectrum, f0 * (pitch * throat), rng)
        edges = (np.cumsum(durations) - _LATE) * _UNIT
        edges[-1] = len(sound) / self._dsp.SR
        phones = espeak_aligner().aligned(features(sound, self._dsp.SR), _phones(letters, edges))
        samples = resampled(sound, self._dsp.SR / throat, RATE)
        return samples, tuple(Phone(phone.symbol, phone.start * throat, phone.end * throat) for phone in phones)


@cache
def _hibari() -> _Hibari:
    return _Hibari()


@dataclass(frozen=True)
class Size:
    """How a speaker differs from the recorded one: pitch, length of the throat and pace, as factors."""

    name: str
    pitch: float = 1.0
    throat: float = 1.0
    pace: float = 1.0


class HibariVoice(Voice):
    def __init__(self, size: Size, split: VoiceSplit) -> None:
        super().__init__(f"hibari-{size.name}", split)
        self.size = size

    def speak(self, text: str, rng: np.random.Generator) -> Utterance:
        hibari = _hibari()
        speed = self.size.pace * rng.uniform(0.9, 1.15)
        pitch = self.size.pitch * rng.uniform(0.94, 1.06)
        parts = []
        for letters in hibari.sentences(text):
            samples, phones = hibari.synthesize(letters, speed, pitch, self.size.throat, rng)
            parts.append(Utterance(samples, phones, self.name, text))
        spoken = join(parts, self.name)
        return Utterance(spoken.samples, spoken.phones, self.name, text)


def _phones(letters: str, edges: np.ndarray) -> tuple[Phone, ...]:
    """Phonemes from the ends of the first pad, each letter and the last pad, in seconds [letters + 2].

    A mark of stress adds its time to the phoneme behind it, a mark of length to the one before; a space is shared by both.
    """
    phones = [Phone(SILENCE, 0.0, float(edges[0]))]
    for letter, start, end in zip((*letters, _LAST_PAD), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if letter in STRESS:
            continue
        last = phones[-1]
        symbol = SILENCE if letter in _PUNCTUATION else "".join(symbols(letter.strip()))
        if symbol and not symbol == last.symbol == SILENCE:
            phones.append(Phone(symbol, last.end, end))
        else:
            phones[-1] = Phone(last.symbol, last.start, (start + end) / 2 if letter == " " else end)
    return tuple(phones)


_SIZES = (
    Size("heart"),
    Size("alto", pitch=0.84, throat=1.06, pace=0.96),
    Size("tenor", pitch=0.66, throat=1.13),
    Size("bass", pitch=0.52, throat=1.2, pace=0.94),
    Size("bright", pitch=1.14, throat=0.94, pace=1.05),
    Size("child", pitch=1.35, throat=0.84, pace=0.97),
)


def hibari_voices(split: VoiceSplit) -> list[Voice]:
    """The recorded speaker and the sizes made from it; all are trained, for they share one way of speaking."""
    return [HibariVoice(size, split) for size in _SIZES] if split == "trained" else []
