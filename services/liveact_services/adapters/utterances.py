"""Voice as frameworks hand it out, frame by frame with a mark at the end, into the utterances of a session."""

from __future__ import annotations

import itertools

import numpy as np

from liveact_services.client import AvatarSession
from liveact_services.client.voice import Resampler


class Utterances:
    """One utterance after the other: `hear` begins one where none is open, `end` and `interrupt` close it."""

    def __init__(self, session: AvatarSession) -> None:
        self._session = session
        self._rate = session.session.audio_format.sample_rate_hz
        self._numbers = itertools.count(1)
        self._name: str | None = None
        self._resampler: tuple[int, Resampler] | None = None

    async def hear(self, pcm: bytes, rate: int, channels: int) -> None:
        """More voice: interleaved PCM16. Raises `ClientError` when the session has ended."""
        if channels > 1:
            mixed = np.frombuffer(pcm, "<i2").reshape(-1, channels).mean(axis=1)
            pcm = mixed.astype("<i2").tobytes()
        if rate != self._rate:
            if self._resampler is None or self._resampler[0] != rate:
                await self._flush()
                self._resampler = (rate, Resampler(rate, self._rate))
            pcm = self._resampler[1].convert(pcm)
        elif self._resampler is not None:
            await self._flush()
        await self._send(pcm)

    async def end(self) -> str | None:
        """The utterance is complete; gives its id, or None when there was none."""
        await self._flush()
        name, self._name = self._name, None
        if name is not None:
            await self._session.end_utterance(name)
        return name

    async def interrupt(self) -> None:
        """Drop what was heard and not shown; voice that comes now is another utterance's."""
        name, self._name, self._resampler = self._name, None, None
        await self._session.interrupt()
        if name is not None:
            await self._session.end_utterance(name)

    async def _send(self, pcm: bytes) -> None:
        if not pcm:
            return
        if self._name is None:
            self._name = f"utterance-{next(self._numbers)}"
        await self._session.send_audio(pcm, self._name)

    async def _flush(self) -> None:
        resampler, self._resampler = self._resampler, None
        if resampler is not None:
            await self._send(resampler[1].flush())
