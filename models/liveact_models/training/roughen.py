"""Cheap disturbances for windows of speech: equalising, noise, babble, a drifting gain, a turned polarity.

All but the gain happen in one pass through the spectrum, so that a window of three seconds costs a few milliseconds.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from liveact_models.voice.prepare import ENCODER_RATE

Array = NDArray[np.float32]

CLEAN = 0.3
"""Share of windows that stay as they are."""
KNOTS_HZ = (60.0, 200.0, 500.0, 1200.0, 2500.0, 5000.0, 8000.0)
SPEECH_KNOTS = slice(1, 5)
"""The knots whose mean gain is none."""
BAND_DB = 30.0
EQ_DB = 5.0
"""Standard deviation of the gain at each knot."""
SNR_DB = (10.0, 45.0)
BABBLE_SHARE = 0.15
BABBLE_SNR_DB = (10.0, 25.0)
BAND_SHARE = 0.15
"""How often the sound comes as through a telephone or a muffled microphone."""
DRIFT_DB = 4.0
"""Standard deviation of the change of gain between the two ends of a window."""


def roughened(samples: Array, level: float, babble: Array, draw: np.random.Generator) -> Array:
    """Samples [n] of 16 kHz sound as another microphone in another room might give them.

    Args:
        samples: the window; it is left as it is.
        level: root mean square of the speech the window is from, which noise is measured against.
        babble: [n] of somebody else's speech.
        draw: where all chance comes from.
    """
    if draw.random() < CLEAN:
        return samples.copy()
    noise_db = draw.uniform(*SNR_DB)
    if draw.random() < BABBLE_SHARE:
        samples = samples + babble * np.float32(_ratio(-draw.uniform(*BABBLE_SNR_DB)))
    spectrum = np.fft.rfft(samples)
    octaves = _octaves(len(spectrum))
    knots = draw.normal(0, EQ_DB, len(KNOTS_HZ))
    knots -= knots[SPEECH_KNOTS].mean()
    if draw.random() < BAND_SHARE:
        low, high = draw.integers(0, 3), draw.integers(4, 6)
        knots[:low], knots[high:] = -BAND_DB, -BAND_DB
    spectrum *= _ratio(np.interp(octaves, np.log2(KNOTS_HZ), knots))
    # Noise of any colour from brown to a little blue: a random phase over a smooth spectrum.
    colour = np.exp2(octaves * np.float32(draw.uniform(-1.0, 0.2)))
    colour *= np.float32(level * _ratio(-noise_db) * len(samples)) / np.sqrt(2 * np.square(colour).sum())
    phase = draw.random(len(spectrum), np.float32) * np.float32(2 * np.pi)
    spectrum.real += colour * np.cos(phase)
    spectrum.imag += colour * np.sin(phase)
    drift = np.linspace(0, draw.normal(0, DRIFT_DB), len(samples), dtype=np.float32) + draw.normal(0, DRIFT_DB)
    heard = np.fft.irfft(spectrum, len(samples)) * _ratio(drift) * np.float32(draw.choice((-1, 1)))
    return np.asarray(heard, np.float32)


@cache
def _octaves(bins: int) -> Array:
    """log2 of the frequency of each bin of a spectrum [bins], in hertz; below 40 Hz all count as that."""
    return np.log2(np.maximum(np.linspace(0, ENCODER_RATE / 2, bins), 40.0)).astype(np.float32)


def _ratio(decibels: float | NDArray[Any]) -> Array:
    return np.exp2(np.asarray(decibels, np.float32) * np.float32(math.log2(10) / 20))
