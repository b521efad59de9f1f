"""Voices: PCM16 sound with its rate, cut into the pieces a stream sends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from liveact.v1 import avatar_pb2 as pb2
from liveact_models.voice import Voice as ModelVoice
from liveact_models.voice import decode_pcm, load_voice
from liveact_models.voice.source import RATES

Pace = Literal["realtime", "fastest"]

FALLBACK_RATE = 48000
REALTIME_PIECE_S = 0.04
FASTEST_PIECE_S = 1.0
SAMPLE_BYTES = 2


class Voice(Protocol):
    """Mono PCM16 voice, handed out piece by piece."""

    @property
    def rate(self) -> int:
        """Samples a second."""
        ...

    def pieces(self, pace: Pace) -> AsyncIterator[bytes]:
        """Its pieces in order, each when it may be sent."""
        ...


def audio_format(voice: Voice) -> pb2.AudioFormat:
    """How a session is told to read this voice."""
    return pb2.AudioFormat(sample_rate_hz=voice.rate, channels=1, encoding=pb2.AUDIO_ENCODING_PCM_S16LE)


@dataclass(frozen=True)
class RecordedVoice:
    """A voice that exists whole. `pcm`: little-endian mono PCM16."""

    pcm: bytes
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.pcm) / SAMPLE_BYTES / self.rate

    def heard(self) -> ModelVoice:
        """The samples as a server hears them."""
        return ModelVoice(decode_pcm(self.pcm, rate=self.rate, channels=1, encoding="s16le"), self.rate)

    async def pieces(self, pace: Pace) -> AsyncIterator[bytes]:
        """40 ms pieces at speaking pace, or one-second pieces without waiting.

        Each is due when its last sample would have been spoken, on absolute times, so a slow piece delays no later one.
        """
        realtime = pace == "realtime"
        step = round((REALTIME_PIECE_S if realtime else FASTEST_PIECE_S) * self.rate) * SAMPLE_BYTES
        loop = asyncio.get_running_loop()
        start = loop.time()
        for offset in range(0, len(self.pcm), step):
            piece = self.pcm[offset : offset + step]
            if realtime:
                due = start + (offset + len(piece)) / SAMPLE_BYTES / self.rate
                await asyncio.sleep(due - loop.time())
            yield piece


class LiveVoice:
    """Raw mono PCM16 from a pipe, as it arrives, until the pipe ends or `stop`."""

    def __init__(self, reader: asyncio.StreamReader, rate: int) -> None:
        self.rate = rate
        self._reader = reader

    async def pieces(self, pace: Pace) -> AsyncIterator[bytes]:
        """Whole samples as they come; a pipe has its own pace, so `pace` does not matter."""
        odd = b""
        while data := await self._reader.read(round(FASTEST_PIECE_S * self.rate) * SAMPLE_BYTES):
            data = odd + data
            whole = len(data) - len(data) % SAMPLE_BYTES
            data, odd = data[:whole], data[whole:]
            if data:
                yield data

    def stop(self) -> None:
        """End the voice here; what has arrived is still handed out."""
        self._reader.feed_eof()


def read_voice(path: Path) -> RecordedVoice:
    """Any sound file as mono PCM16, at its own rate where the API accepts it, else at 48 kHz. Raises `VoiceError`."""
    import av

    voice = load_voice(path)
    rate = voice.rate if voice.rate in RATES else FALLBACK_RATE
    frame = av.AudioFrame.from_ndarray(voice.samples.reshape(1, -1), format="flt", layout="mono")
    frame.sample_rate = voice.rate
    resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
    parts = [part.to_ndarray().tobytes() for given in (frame, None) for part in resampler.resample(given)]
    return RecordedVoice(b"".join(parts), rate)


async def at_rate(voice: Voice, rate: int, pace: Pace) -> AsyncIterator[bytes]:
    """A voice's pieces, resampled to `rate` Hz where it has another."""
    if voice.rate == rate:
        async for piece in voice.pieces(pace):
            yield piece
        return
    resampler = Resampler(voice.rate, rate)
    async for piece in voice.pieces(pace):
        if converted := resampler.convert(piece):
            yield converted
    if rest := resampler.flush():
        yield rest


class Resampler:
    """Mono PCM16 from one rate to another, piece by piece."""

    def __init__(self, source: int, target: int) -> None:
        import av

        self._source, self._fed = source, False
        self._resampler = av.AudioResampler(format="s16", layout="mono", rate=target)

    def convert(self, pcm: bytes) -> bytes:
        """The next piece; what the filter holds back comes with a later one."""
        import av
        import numpy as np

        if not pcm:
            return b""
        frame = av.AudioFrame.from_ndarray(np.frombuffer(pcm, "<i2").reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, self._fed = self._source, True
        return b"".join(part.to_ndarray().tobytes() for part in self._resampler.resample(frame))

    def flush(self) -> bytes:
        """What is left; the resampler is used up."""
        if not self._fed:
            return b""
        return b"".join(part.to_ndarray().tobytes() for part in self._resampler.resample(None))
