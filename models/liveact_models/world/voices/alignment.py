"""Forced alignment: phoneme times that an engine gives roughly, moved to where the sound changes.

Each phoneme is two states with one Gaussian each (monophones, diagonal covariance), fitted to speech whose times are exact;
Viterbi then finds the path through the states, which pays for every frame spent outside the rough times. Duration networks
need this: before a pause they count silence as the last phonemes, up to a quarter of a second of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from liveact_models.world.mouth import SYMBOLS, Phone

HOP = 0.01
"""Seconds of a frame of features."""
_WINDOW = 0.025
_BANDS = 22
_LOW, _HIGH = 60.0, 8000.0
"""What the features hear, in Hz."""
_CEPSTRA = 13
_STATES = 2
"""States of a phoneme: its beginning and its end; the second may be skipped."""
_REACH = 0.3
"""How far a boundary may move, in seconds."""
_STRAYING = 0.6
"""Log-likelihood that a frame pays for each frame of distance from its phoneme's rough time."""
_SKIPPING = 3.0
_IMPOSSIBLE = -1e9


def features(samples: np.ndarray, rate: int) -> np.ndarray:
    """Mel cepstra, their slope and voicing at the middle of each `HOP`: float32 [frames, 27].

    Loudness and the speaker's mean spectrum are taken out, so that one voice can be aligned by another's statistics.
    """
    hop, window = round(HOP * rate), round(_WINDOW * rate)
    padded = np.pad(samples, (window - hop) // 2 + window % 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop] * np.hanning(window).astype(np.float32)
    power = np.abs(np.fft.rfft(frames)).astype(np.float32) ** 2  # [frames, bins]
    power *= 100 / max(float(np.quantile(power.sum(1), 0.9)), 1e-9)
    bins = np.fft.rfftfreq(window, 1 / rate)
    bank = _mel_bank(bins)
    level = np.log(power @ bank.T / bank.sum(1) + 1e-6)  # [frames, bands]
    turns = np.pi * np.arange(_CEPSTRA)[:, None] * (np.arange(_BANDS) + 0.5) / _BANDS
    cepstra = np.maximum(level, level.max() - 16) @ (np.cos(turns).T / np.sqrt(_BANDS))
    vowel, hiss = power[:, (bins > 80) & (bins < 1000)].sum(1), power[:, bins > 3500].sum(1)
    voiced = (vowel > 3 * hiss) & (vowel > 1e-3 * vowel.max())
    cepstra[:, 0] -= np.quantile(cepstra[:, 0], 0.9)
    cepstra[:, 1:] -= cepstra[voiced, 1:].mean(0) if voiced.any() else 0.0
    return np.concatenate([cepstra, 2 * np.gradient(cepstra, axis=0), 3 * voiced[:, None]], axis=1).astype(np.float32)


def _mel_bank(bins: np.ndarray) -> np.ndarray:
    """Triangular bands over the bins' frequencies: [bands, bins]."""
    mel_low, mel_high = (2595 * np.log10(1 + hertz / 700) for hertz in (_LOW, _HIGH))
    edges = 700 * (10 ** (np.linspace(mel_low, mel_high, _BANDS + 2) / 2595) - 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.clip(np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)), 0, None).astype(
        np.float32
    )


class Aligner:
    """Fitted to the features [frames, n] and the phones of many utterances."""

    def __init__(self, examples: Iterable[tuple[np.ndarray, Sequence[Phone]]]) -> None:
        self._index = {symbol: number for number, symbol in enumerate(SYMBOLS)}
        frames, labels = [], []
        for example, phones in examples:
            frames.append(example)
            labels.append(self._timed_states(phones, len(example)))
        self._fit(np.concatenate(frames).astype(np.float64), np.concatenate(labels))

    def aligned(self, example: np.ndarray, phones: Sequence[Phone]) -> tuple[Phone, ...]:
        """The same phones, one after another, with the times that the features [frames, n] speak for."""
        owners = self._path(example, phones)  # [frames], which phone sounds
        starts = np.searchsorted(owners, np.arange(len(phones) + 1)) * HOP
        starts[0], starts[-1] = phones[0].start, phones[-1].end
        return tuple(
            Phone(phone.symbol, float(start), float(end))
            for phone, start, end in zip(phones, starts, starts[1:], strict=False)
        )

    def _states(self, phones: Sequence[Phone]) -> np.ndarray:
        """The states that the phones pass through, in order: [phones * 2]."""
        return np.array([self._index[phone.symbol] * _STATES + half for phone in phones for half in range(_STATES)])

    def _timed_states(self, phones: Sequence[Phone], frames: int) -> np.ndarray:
        """The state of each frame, both states of a phoneme sharing its time: [frames]."""
        edges = [
            phone.start + half / _STATES * (phone.end - phone.start) for phone in phones for half in range(_STATES)
        ]
        middles = (np.arange(frames) + 0.5) * HOP
        return self._states(phones)[np.maximum(np.searchsorted(edges, middles, side="right") - 1, 0)]

    def _fit(self, frames: np.ndarray, states: np.ndarray) -> None:
        """Mean and variance of each state; two frames' worth of the whole's stand in where there are few."""
        count = np.bincount(states, minlength=len(SYMBOLS) * _STATES)[:, None] + 2.0
        mean, variance = frames.mean(0), frames.var(0)
        total = np.tile(2 * mean, (len(count), 1))
        square = np.tile(2 * (variance + mean**2), (len(count), 1))
        np.add.at(total, states, frames)
        np.add.at(square, states, frames**2)
        self._mean = total / count  # [states, n]
        self._variance = np.maximum(square / count - self._mean**2, 0.1 * variance)

    def _path(self, example: np.ndarray, phones: Sequence[Phone]) -> np.ndarray:
        """Viterbi over the phones' states: the index of the phone at each frame, never falling, [frames]."""
        states = self._states(phones)
        precision = 1 / self._variance[states]  # [states, n]
        mean = self._mean[states]
        distance = example**2 @ precision.T - 2 * example @ (mean * precision).T + (mean**2 * precision).sum(1)
        score = 0.5 * np.log(precision).sum(1) - 0.5 * distance  # [frames, states]
        middles = (np.arange(len(example)) + 0.5)[:, None]
        first, last = (np.repeat([getattr(phone, end) / HOP for phone in phones], _STATES) for end in ("start", "end"))
        away = np.maximum(np.maximum(first - middles, middles - last), 0.0)  # frames outside the rough time
        score = np.where(away * HOP > _REACH, _IMPOSSIBLE, score - _STRAYING * away)

        begins = np.arange(len(states)) % _STATES == 0
        steps = np.zeros(score.shape, np.int8)
        best = np.full((3, len(states)), _IMPOSSIBLE)
        total = np.full(len(states), _IMPOSSIBLE)
        total[0] = score[0, 0]
        for frame in range(1, len(score)):
            best[0] = total  # stay, go on, skip the end of the phone before
            best[1, 1:] = total[:-1]
            best[2, 2:] = np.where(begins[2:], total[:-2] - _SKIPPING, _IMPOSSIBLE)
            steps[frame] = best.argmax(0)
            total = best.max(0) + score[frame]
        path = np.empty(len(score), np.int64)
        state = len(states) - 1
        for frame in range(len(score) - 1, -1, -1):
            path[frame] = state
            state -= int(steps[frame, state])
        return path // _STATES
