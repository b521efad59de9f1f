"""Voice: whatever says a sentence and knows when each phoneme sounds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np

from liveact_models.world.voices.utterance import Utterance

VoiceSplit = Literal["trained", "held-out"]


class Voice(ABC):
    """A speaker. Training hears those of the split "trained"; "held-out" ones are for evaluation only."""

    def __init__(self, name: str, split: VoiceSplit) -> None:
        self.name = name
        self.split = split

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.split})"

    @abstractmethod
    def speak(self, text: str, rng: np.random.Generator) -> Utterance:
        """Says the text, at a pace and pitch near the voice's own; the same draws give the same samples.

        Raises MissingExtra where the engine's package is not installed.
        """
