"""Speech: sentences with pauses, for as long as wanted, from one seeded voice."""

from __future__ import annotations

from functools import cache

import numpy as np

from liveact_models.world.sentences import SPLITS, Split, sentences
from liveact_models.world.voices.augment import augmented
from liveact_models.world.voices.espeak import espeak_voices
from liveact_models.world.voices.hibari import hibari_voices
from liveact_models.world.voices.utterance import Utterance, join
from liveact_models.world.voices.voice import Voice, VoiceSplit

NATURAL_SHARE = 0.5
"""The share of training speech from the neural voices; the rest is spread over the many formant voices."""


@cache
def _voices(split: VoiceSplit) -> tuple[Voice, ...]:
    return (*hibari_voices(split), *espeak_voices(split))


def voices(split: VoiceSplit) -> list[Voice]:
    """Every synthetic voice of the split, "trained" or "held-out"; ValueError for any other word."""
    if split not in ("trained", "held-out"):
        raise ValueError(f"voices are trained or held-out, not {split!r}")
    return list(_voices(split))


def voice_named(name: str) -> Voice:
    """The synthetic voice of that name, of either split; ValueError with the names there are."""
    known = {voice.name: voice for voice in (*_voices("trained"), *_voices("held-out"))}
    if name not in known:
        raise ValueError(f"no voice is named {name!r}; there are {', '.join(known)}")
    return known[name]


def speech(
    seed: int, seconds: float, split: Split, voice: str | Voice | None = None, augment: bool = True
) -> Utterance:
    """Exactly `seconds` of sentences of the split with pauses of 0.2-0.8 s; the same seed gives the same samples.

    Without `voice` a trained one is drawn; another may be given by name or as itself. `augment` lets rooms, microphones, noise
    and pace vary (`augmented`). Raises ValueError for an unknown split or voice, MissingExtra without the extra `train`.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: speech is for {' or '.join(SPLITS)}")
    rng = np.random.default_rng((seed, SPLITS.index(split)))
    speaker = _drawn(rng) if voice is None else voice_named(voice) if isinstance(voice, str) else voice
    parts: list[Utterance | float] = [rng.uniform(0.0, 0.5) if rng.random() < 0.85 else rng.uniform(0.5, 2.0)]
    length = 0.0
    while length < 1.15 * seconds:  # enough even where it is then played faster
        said = _levelled(speaker.speak(sentences(rng, split), rng).trimmed())
        pause = rng.uniform(0.2, 0.8) if rng.random() < 0.95 else rng.uniform(0.8, 2.0)
        parts += [said, pause]
        length += said.seconds + pause
    spoken = join(parts, speaker.name)
    if augment:
        spoken = augmented(spoken, rng)
    return spoken.cut(0.0, seconds)


def _drawn(rng: np.random.Generator) -> Voice:
    family = hibari_voices("trained") if rng.random() < NATURAL_SHARE else espeak_voices("trained")
    return family[int(rng.integers(len(family)))]


def _levelled(utterance: Utterance) -> Utterance:
    """At a loudness that is the same for every engine: -20 dB on average."""
    level = float(np.sqrt(np.mean(utterance.samples**2)))
    return utterance.stretched((utterance.samples * (0.1 / max(level, 1e-5))).astype(np.float32))
