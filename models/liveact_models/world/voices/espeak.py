"""Voices of espeak-ng: formant synthesis in many accents and throats, with phoneme times as events of the synthesis."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np

from liveact_models.world.mouth import SILENCE, Phone
from liveact_models.world.sentences import sentences
from liveact_models.world.voices import espeak_library
from liveact_models.world.voices.alignment import Aligner, features
from liveact_models.world.voices.ipa import symbols
from liveact_models.world.voices.resample import resampled
from liveact_models.world.voices.utterance import RATE, Utterance
from liveact_models.world.voices.voice import Voice, VoiceSplit

_STOPS = frozenset(("p", "b", "t", "d", "k", "ɡ", "tʃ", "dʒ", "ts"))


@dataclass(frozen=True)
class Throat:
    """An accent, a variant of the voice, and the middle of its pace (words a minute) and pitch (0 to 99)."""

    accent: str
    variant: str
    pace: int
    pitch: int


class EspeakVoice(Voice):
    """One throat; pace, pitch and melody vary a little from sentence to sentence."""

    def __init__(self, throat: Throat, split: VoiceSplit) -> None:
        super().__init__(f"espeak-{throat.accent.removeprefix('gmw/')}-{throat.variant}", split)
        self.throat = throat

    def speak(self, text: str, rng: np.random.Generator) -> Utterance:
        sound, events = espeak_library.synthesized(
            text,
            f"{self.throat.accent}+{self.throat.variant}",
            pace=round(self.throat.pace * rng.uniform(0.88, 1.15)),
            pitch=int(np.clip(self.throat.pitch + rng.integers(-8, 9), 0, 99)),
            pitch_range=int(rng.integers(35, 70)),
            seed=int(rng.integers(2**31)),
        )
        samples = resampled(sound, espeak_library.RATE, RATE)
        phones = _with_closures(_phones(events, len(sound) / espeak_library.RATE), samples)
        return Utterance(samples, phones, self.name, text)


def _phones(events: list[tuple[float, str]], end: float) -> list[Phone]:
    """Each event lasts until the next; one of several simple phonemes shares its time out evenly."""
    phones: list[Phone] = []
    for (start, ipa), (stop, _) in itertools.pairwise([*events, (end, "")]):
        if ipa.startswith("("):  # a switch of language, no sound
            ipa = ""
        parts = symbols(ipa) or (SILENCE,)
        edges = np.linspace(start, stop, len(parts) + 1).tolist()
        phones += [Phone(*phone) for phone in zip(parts, edges, edges[1:], strict=False) if phone[2] > phone[1]]
    return phones


def _with_closures(phones: list[Phone], samples: np.ndarray) -> tuple[Phone, ...]:
    """Stops from where the sound before them ends: espeak-ng reports them at their burst, 40-60 ms after the lips close."""
    hop = RATE // 200
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop)
    level = np.sqrt((frames**2).mean(1))  # every 5 ms
    quiet = level < 0.04 * np.quantile(level, 0.95)  # -28 dB
    found = list(phones)
    for index in range(1, len(found)):
        before, stop = found[index - 1], found[index]
        if stop.symbol not in _STOPS or before.symbol == SILENCE:
            continue
        earliest = max(before.start + 0.02, stop.start - 0.12)
        frame = int(stop.start * RATE / hop)
        while frame > 0 and quiet[frame - 1] and (frame - 1) * hop / RATE >= earliest:
            frame -= 1
        closed = min(frame * hop / RATE, stop.start)
        found[index - 1] = Phone(before.symbol, before.start, closed)
        found[index] = Phone(stop.symbol, closed, stop.end)
    return tuple(found)


def _throats(accents: str, variants: str) -> list[Throat]:
    """Each variant with an accent in turn, and with a pace and pitch of its own."""
    return [
        Throat(accent, variant, 125 + (37 * index) % 80, 25 + (23 * index) % 45)
        for index, (variant, accent) in enumerate(zip(variants.split(), itertools.cycle(accents.split()), strict=False))
    ]


_ACCENTS = "en-us gmw/en en-gb-scotland en-us-nyc en-gb-x-rp en-us en-029 en-gb-x-gbclan en-gb-x-gbcwmd"
_VARIANTS = (
    "m1 f1 m2 f2 m3 f3 m4 f4 m5 m6 m7 Marco Alicia Andrea Andy belinda Denis Diogo Gene Hugo Jacky linda Lee Mario max "
    "Michael Mike norbert paul quincy Henrique rob shelby steph travis zac aunty whisper"
)
# English read with the phonemes of other languages: sounds that English lacks.
_FOREIGN = (("de", "m2"), ("es", "f3"), ("it", "m7"), ("pl", "f1"), ("nl", "m4"))
_HELD_OUT = "klatt klatt2 klatt3 klatt4 klatt5 adam f5 m8 Annie ed gustave"


def espeak_voices(split: VoiceSplit) -> list[Voice]:
    """The throats of a split: none of the held-out variants, nor any of their relatives by synthesis (Klatt), is trained."""
    if split == "held-out":
        return [EspeakVoice(throat, split) for throat in _throats("en-us gmw/en", _HELD_OUT)]
    foreign = [throat for accent, variant in _FOREIGN for throat in _throats(accent, variant)]
    return [EspeakVoice(throat, split) for throat in (*_throats(_ACCENTS, _VARIANTS), *foreign)]


@cache
def espeak_aligner() -> Aligner:
    """An aligner fitted to a sentence of every trained throat with English phonemes: espeak-ng's times are exact."""
    rng = np.random.default_rng(0)
    english = [EspeakVoice(throat, "trained") for throat in _throats(_ACCENTS, _VARIANTS)]
    spoken = (voice.speak(sentences(rng, "train"), rng) for voice in english)
    return Aligner((features(utterance.samples, RATE), utterance.phones) for utterance in spoken)
