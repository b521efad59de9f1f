"""Voice out of sound that never stops: a microphone's track has no utterances, a session has."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class GateRules:
    """When somebody speaks."""

    threshold_db: float = -45.0
    """Loudness from which sound is voice, root mean square over a piece, in dB of full scale."""
    before_s: float = 0.2
    """Sound before it that belongs to it: words begin softly."""
    hang_s: float = 0.8
    """How long a pause may be before the utterance has ended."""


class VoiceGate:
    """Opens when it gets loud, closes after a pause. Between the two everything passes, pauses included."""

    def __init__(self, rate: int, rules: GateRules = GateRules()) -> None:
        """`rate`: of the samples, in Hz."""
        self._rate, self._rules = rate, rules
        self._threshold = 32768 * 10 ** (rules.threshold_db / 20)
        self._before: deque[np.ndarray] = deque()
        self._kept = 0
        self._quiet = 0
        """Samples since the last loud piece."""
        self.open = False

    def feed(self, samples: np.ndarray) -> tuple[np.ndarray, bool]:
        """What is to be sent now that these samples (int16 [n]) have come, and whether the utterance has ended with it."""
        loud = len(samples) > 0 and float(np.sqrt(np.mean(samples.astype(np.float64) ** 2))) >= self._threshold
        if not self.open:
            if not loud:
                self._keep(samples)
                return samples[:0], False
            voice = np.concatenate([*self._before, samples])
            self.close()
            self.open = True
            return voice, False
        self._quiet = 0 if loud else self._quiet + len(samples)
        ended = self._quiet >= self._rules.hang_s * self._rate
        if ended:
            self.close()
        return samples, ended

    def close(self) -> None:
        """Wait for another voice."""
        self.open, self._quiet, self._kept = False, 0, 0
        self._before.clear()

    def _keep(self, samples: np.ndarray) -> None:
        self._before.append(samples)
        self._kept += len(samples)
        while self._kept - len(self._before[0]) >= self._rules.before_s * self._rate:
            self._kept -= len(self._before.popleft())
