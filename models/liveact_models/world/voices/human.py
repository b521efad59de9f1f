"""Recorded people, from a folder of clips with phone labels; they are held out, always.

A clip is `<name>.wav` (16 kHz mono, 16 bit) with `<name>.lab` beside it: a first line `# ` and what is said, then one line a
phone, `start<TAB>end<TAB>label`, in seconds and ARPABET: a label track as Audacity writes it.
"""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from liveact_models.world.mouth import Phone
from liveact_models.world.voices.ipa import from_arpabet
from liveact_models.world.voices.utterance import RATE, Utterance
from liveact_models.world.voices.voice import Voice


class RecordedVoice(Voice):
    """Everyone in the folder. It cannot say what it is told to: each call plays one of the clips."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError where the folder has no labelled clip, or one that does not follow the module's rules."""
        super().__init__(f"recorded-{folder.name}", "held-out")
        self.clips = [_clip(path) for path in sorted(folder.glob("*.wav")) if path.with_suffix(".lab").is_file()]
        if not self.clips:
            raise ValueError(f"{folder} has no clip: NAME.wav with NAME.lab beside it is expected")

    def speak(self, text: str, rng: np.random.Generator) -> Utterance:
        """A clip; its own words are the utterance's text."""
        return self.clips[int(rng.integers(len(self.clips)))]


def _clip(path: Path) -> Utterance:
    with wave.open(str(path)) as sound:
        kind = (sound.getframerate(), sound.getnchannels(), sound.getsampwidth())
        if kind != (RATE, 1, 2):
            raise ValueError(
                f"{path}: {kind[0]} Hz, {kind[1]} channels, {8 * kind[2]} bits; expected {RATE} Hz mono, 16 bits"
            )
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2").astype(np.float32) / 32768
    labels = path.with_suffix(".lab")
    title, *lines = labels.read_text(encoding="utf-8").splitlines()
    if not title.startswith("# "):
        raise ValueError(f"{labels}: the first line is {title!r}; expected '# ' and the words that are spoken")
    return Utterance(samples, tuple(_phone(line, labels) for line in lines), path.stem, title[2:])


def _phone(line: str, labels: Path) -> Phone:
    try:
        start, end, label = line.split("\t")
        return Phone(from_arpabet(label), float(start), float(end))
    except ValueError as error:
        raise ValueError(
            f"{labels}: {line!r} is not start, end and an ARPABET phone with tabs between: {error}"
        ) from error
