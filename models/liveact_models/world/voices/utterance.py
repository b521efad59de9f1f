"""Utterance: sound with the times of its phonemes, and what can be done to both at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from liveact_models.world.mouth import SILENCE, Phone

RATE = 16000
"""Samples a second of every utterance."""


@dataclass(frozen=True)
class Utterance:
    """Something said: `samples` float32 [n] at 16 kHz mono, `phones` in order of time and without overlap."""

    samples: np.ndarray
    phones: tuple[Phone, ...]
    voice: str
    text: str

    @property
    def seconds(self) -> float:
        return len(self.samples) / RATE

    def trimmed(self, margin: float = 0.04) -> Utterance:
        """Without the silence before the first and after the last phoneme, but for `margin` seconds."""
        spoken = [phone for phone in self.phones if phone.symbol != SILENCE]
        if not spoken:
            return self
        return self.cut(max(0.0, spoken[0].start - margin), min(self.seconds, spoken[-1].end + margin))

    def cut(self, start: float, end: float) -> Utterance:
        """The part between two times in seconds; sound past the end is silence."""
        first, stop = round(start * RATE), round(end * RATE)
        samples = self.samples[first:stop]
        phones = (
            Phone(phone.symbol, max(phone.start, start) - start, min(phone.end, end) - start)
            for phone in self.phones
            if phone.end > start and phone.start < end
        )
        return replace(self, samples=np.pad(samples, (0, stop - first - len(samples))), phones=tuple(phones))

    def stretched(self, samples: np.ndarray) -> Utterance:
        """With other samples of the same words: the phonemes' times scale with their number."""
        scale = len(samples) / len(self.samples)
        phones = tuple(Phone(phone.symbol, phone.start * scale, phone.end * scale) for phone in self.phones)
        return replace(self, samples=samples, phones=phones)


def join(parts: Iterable[Utterance | float], voice: str) -> Utterance:
    """Utterances one after another; a number stands for a pause of so many seconds."""
    sounds: list[np.ndarray] = []
    phones: list[Phone] = []
    texts: list[str] = []
    length = 0
    for part in parts:
        if isinstance(part, Utterance):
            now = length / RATE
            phones.extend(Phone(phone.symbol, phone.start + now, phone.end + now) for phone in part.phones)
            texts.append(part.text)
            sounds.append(part.samples)
        else:
            sounds.append(np.zeros(round(part * RATE), np.float32))
        length += len(sounds[-1])
    return Utterance(np.concatenate(sounds), tuple(phones), voice, " ".join(texts))
