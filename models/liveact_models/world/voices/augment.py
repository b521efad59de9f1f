"""Other rooms, microphones and throats for the same words; every draw comes from the generator that is passed.

Nothing here moves the sound against its phonemes: filters have no delay, and where the pace changes the times change with it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from liveact_models.training import MissingExtra
from liveact_models.world.voices.resample import resampled
from liveact_models.world.voices.utterance import RATE, Utterance

CLEAN_SHARE = 0.3
"""The share of utterances that stay as the studio made them, but for their loudness."""


def augmented(utterance: Utterance, rng: np.random.Generator) -> Utterance:
    """The utterance as another microphone, in another room, might have caught it; float32, peak at most 1."""
    if rng.random() < CLEAN_SHARE:
        return replace(utterance, samples=loudness(utterance.samples, rng))
    if rng.random() < 0.6:
        utterance = varispeed(utterance, rng.uniform(0.88, 1.14))
    samples = utterance.samples
    if rng.random() < 0.6:
        samples = equalised(samples, rng)
    if rng.random() < 0.45:
        samples = reverberated(samples, rng)
    if rng.random() < 0.65:
        samples = noisy(samples, rng)
    if rng.random() < 0.1:
        samples = overdriven(samples, rng)
    return replace(utterance, samples=loudness(samples, rng))


def varispeed(utterance: Utterance, factor: float) -> Utterance:
    """Played `factor` times as fast: pace, pitch and formants rise alike, and the phonemes' times shrink."""
    return utterance.stretched(resampled(utterance.samples, RATE * factor, RATE))


def loudness(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scaled to a peak between -18 dB and full scale."""
    peak = float(np.abs(samples).max(initial=0.0))
    return (samples * (10 ** (rng.uniform(-18, 0) / 20) / max(peak, 1e-4))).astype(np.float32)


def equalised(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A microphone's colour: a random smooth curve of +-8 dB, in one case of four a telephone's narrow band as well."""
    corners = np.array([0, 150, 400, 1000, 2200, 4000, 6000, 8000])
    decibels = rng.uniform(-8, 8, len(corners))
    if rng.random() < 0.25:
        decibels[corners < 300] -= 25
        decibels[corners > 3600] -= 25
    bins = np.linspace(0, RATE / 2, 129)
    gain = 10 ** (np.interp(bins, corners, decibels) / 20)
    kernel = np.fft.fftshift(np.fft.irfft(gain)) * np.hanning(256)  # symmetric about sample 128
    return _convolved(samples, kernel, delay=128)


def reverberated(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """In a room: the voice itself without delay, then a tail of noise that falls by 60 dB in 0.1-0.6 s."""
    seconds = rng.uniform(0.1, 0.6)
    times = np.arange(round(seconds * RATE)) / RATE
    tail = rng.standard_normal(len(times)) * 10 ** (-3 * times / seconds)
    tail[: round(rng.uniform(0.001, 0.02) * RATE)] = 0.0  # before the nearest wall answers
    tail *= 10 ** (-rng.uniform(3, 18) / 20) / np.sqrt((tail**2).sum())
    tail[0] = 1.0
    return _convolved(samples, tail, delay=0)


def noisy(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With white, pink or brown noise, mains hum, or a murmur of voices, 5-40 dB below the voice."""
    kind = rng.choice(("white", "pink", "brown", "hum", "murmur"), p=(0.2, 0.25, 0.2, 0.1, 0.25))
    match kind:
        case "hum":
            time = np.arange(len(samples)) / RATE
            mains = rng.choice((50, 60))
            noise = sum(
                rng.random() / order * np.sin(2 * np.pi * (order * mains * time + rng.random()))
                for order in range(1, 8)
            )
        case "murmur":
            # Reversed and laid over itself, speech keeps its spectrum and loses its words.
            noise = sum(np.roll(samples[::-1], int(rng.integers(len(samples)))) for _ in range(5))
        case _:
            noise = _coloured(len(samples), {"white": 0.0, "pink": 0.5, "brown": 1.0}[kind], rng)
    level = np.sqrt(np.mean(samples**2) / max(float(np.mean(noise**2)), 1e-12)) * 10 ** (-rng.uniform(5, 40) / 20)
    return (samples + level * noise).astype(np.float32)


def overdriven(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A microphone too near: peaks clipped at 20-70 % of their height."""
    limit = np.abs(samples).max(initial=0.0) * rng.uniform(0.2, 0.7)
    return np.clip(samples, -limit, limit)


def _coloured(length: int, tilt: float, rng: np.random.Generator) -> np.ndarray:
    """Noise whose amplitude falls with frequency to the power of `tilt`."""
    period = 1 << 16  # four seconds, repeated
    spectrum = rng.standard_normal(period // 2 + 1) + 1j * rng.standard_normal(period // 2 + 1)
    spectrum *= np.maximum(np.arange(len(spectrum)), 20 * period / RATE) ** -tilt
    return np.resize(np.fft.irfft(spectrum), length)


def _convolved(samples: np.ndarray, kernel: np.ndarray, delay: int) -> np.ndarray:
    try:
        from scipy.signal import oaconvolve
    except ImportError as error:
        raise MissingExtra("scipy") from error
    return oaconvolve(samples, kernel.astype(np.float32))[delay : delay + len(samples)].astype(np.float32)
