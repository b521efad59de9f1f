"""Sound as it comes in, as a file or as PCM: mono float32 at its own rate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from liveact_models.voice.errors import VoiceError

Samples = NDArray[np.float32]

RATES = (8000, 16000, 22050, 24000, 32000, 44100, 48000)
"""Rates of PCM that are accepted, in samples a second."""
SAMPLE_BYTES = {"s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4}
"""Encodings of PCM that are accepted."""
MAX_CHANNELS = 2
RANGE_TOLERANCE = 1e-3
FULL_SCALE = 0.999


@dataclass(frozen=True)
class Voice:
    """Sound: samples [n] (float32, mono) at `rate` samples a second."""

    samples: Samples
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


def load_voice(path: Path | str) -> Voice:
    """The first audio stream of a file, in any format, rate and width FFmpeg reads; channels are averaged.

    Raises `VoiceError` AUDIO_UNREADABLE, AUDIO_NO_STREAM, AUDIO_EMPTY or AUDIO_NOT_FINITE.
    """
    import av

    try:
        # Opened here, not by FFmpeg, which would take some names for network addresses.
        with open(path, "rb") as file, av.open(file, mode="r") as container:
            if not container.streams.audio:
                raise VoiceError("AUDIO_NO_STREAM", f"{path}: no audio stream in the file")
            stream = container.streams.audio[0]
            rate = stream.rate
            resampler = av.AudioResampler(format="fltp", rate=rate)
            parts = [part.to_ndarray() for frame in container.decode(stream) for part in resampler.resample(frame)]
            parts += [part.to_ndarray() for part in resampler.resample(None)] if parts else []
    except VoiceError:
        raise
    except (OSError, ValueError, av.error.FFmpegError) as error:
        # FFmpeg's text without its error number and the path again.
        why = getattr(error, "strerror", None) or str(error)
        raise VoiceError("AUDIO_UNREADABLE", f"{path}: not a readable sound file ({why})") from None
    if not sum(part.shape[1] for part in parts):
        raise VoiceError("AUDIO_EMPTY", f"{path}: the audio stream holds no sample")
    samples = np.concatenate([part.mean(axis=0, dtype=np.float32) for part in parts])
    _check_finite(samples, str(path))
    return Voice(samples, rate)


def decode_pcm(data: bytes, *, rate: int, channels: int, encoding: str) -> Samples:
    """Mono samples [n] of interleaved little-endian PCM; two channels are averaged. No bytes give no samples.

    Raises `VoiceError`: AUDIO_ENCODING_UNSUPPORTED, AUDIO_RATE_UNSUPPORTED, AUDIO_CHANNELS_UNSUPPORTED, AUDIO_ODD_BYTES
    (not whole samples of every channel), and for floats AUDIO_NOT_FINITE or AUDIO_OUT_OF_RANGE (beyond +-1).
    """
    if encoding not in SAMPLE_BYTES:
        raise VoiceError("AUDIO_ENCODING_UNSUPPORTED", f"encoding {encoding!r}: accepted are {', '.join(SAMPLE_BYTES)}")
    if rate not in RATES:
        raise VoiceError("AUDIO_RATE_UNSUPPORTED", f"rate {rate}: accepted are {', '.join(map(str, RATES))} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise VoiceError("AUDIO_CHANNELS_UNSUPPORTED", f"{channels} channels: accepted are 1 and {MAX_CHANNELS}")
    width = SAMPLE_BYTES[encoding] * channels
    if len(data) % width:
        raise VoiceError(
            "AUDIO_ODD_BYTES", f"{len(data)} bytes: {encoding} with {channels} channels takes {width} each"
        )
    return _to_float(data, encoding).reshape(-1, channels).mean(axis=1, dtype=np.float32)


def _to_float(data: bytes, encoding: str) -> Samples:
    if encoding == "s16le":
        return np.frombuffer(data, "<i2").astype(np.float32) * np.float32(2**-15)
    if encoding == "s24le":
        # Three bytes become the upper three of a 32-bit number, which keeps the sign.
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0].astype(np.float32) * np.float32(2**-31)
    if encoding == "s32le":
        return np.frombuffer(data, "<i4").astype(np.float32) * np.float32(2**-31)
    samples = np.frombuffer(data, "<f4").astype(np.float32)
    _check_finite(samples, "f32le")
    peak = float(np.abs(samples).max(initial=0.0))
    if peak > 1 + RANGE_TOLERANCE:
        raise VoiceError("AUDIO_OUT_OF_RANGE", f"f32le: a sample of {peak:g}; accepted are -1 to 1")
    return samples.clip(-1, 1)


def _check_finite(samples: Samples, what: str) -> None:
    finite = np.isfinite(samples)
    if not finite.all():
        raise VoiceError("AUDIO_NOT_FINITE", f"{what}: sample {int(finite.argmin())} is not a finite number")


def clipped_fraction(samples: Samples) -> float:
    """The part of the samples that stand at full scale, 0 to 1."""
    return float(np.mean(np.abs(samples) >= FULL_SCALE)) if len(samples) else 0.0
