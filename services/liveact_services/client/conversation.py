"""What a client says and hears, whether over one call or over as many as it takes."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeAlias

from liveact.v1 import avatar_pb2 as pb2
from liveact_services.client.voice import SAMPLE_BYTES, Pace, Voice, at_rate, read_voice

MAX_PIECE_BYTES = 960_000
"""Longest voice piece sent; under the API's 1 MiB and whole samples in every format (a multiple of 2, 4, 6 and 8)."""

MAX_AHEAD_S = 30.0
"""Voice that `speak` sends ahead of the picture, in seconds; well under what a server keeps waiting."""
REMEMBERED = 64
"""Interrupted utterances that are remembered: more than can have frames on their way."""

Payload: TypeAlias = pb2.VideoChunk | pb2.AudioSpan | pb2.Event


class Conversation:
    """The verbs of a session. Iterating gives `VideoChunk`, `AudioSpan` and `Event`; one task may iterate while another sends."""

    def __init__(self) -> None:
        self.next_sequence = 0
        """Number of the next voice piece."""
        self.arrived_at = 0.0
        """When the message yielded last came off the wire, in seconds of `time.perf_counter`."""
        self.interrupted: deque[str] = deque(maxlen=REMEMBERED)
        """Utterances that were cut off: frames that still come of them are old."""
        self._begun: deque[str] = deque(maxlen=REMEMBERED)
        """Utterances since the last interrupt."""
        self._numbers = itertools.count(1)
        self._ahead_s = 0.0
        """Voice that `speak` sent and that no frame yielded has spoken."""
        self._moved = asyncio.Event()
        self._done = False

    @property
    def session(self) -> pb2.Session:
        """What was agreed. Raises `RuntimeError` before it is entered."""
        raise NotImplementedError

    async def ready(self) -> None:
        """Wait until voice counts. Raises `ClientError` when the session ends before that."""
        raise NotImplementedError

    async def send(self, request: pb2.StreamAvatarRequest) -> None:
        """One request as it is, but for `config`. Raises `ClientError` where nothing can be sent any more."""
        raise NotImplementedError

    async def speak(self, voice: Voice | Path | str, utterance_id: str | None = None, *, pace: Pace = "fastest") -> str:
        """Say one utterance: a sound file, or a voice at any rate. Gives its id once all of it is sent.

        It is sent as fast as the session takes it, or at speaking pace, and never more than 30 s ahead of the frames that were
        taken: a longer voice needs another task that iterates. One utterance at a time; an interrupt ends the sending. Raises
        `ClientError`, and `VoiceError` for a file that is no sound.
        """
        if isinstance(voice, Path | str):
            voice = await asyncio.to_thread(read_voice, Path(voice))
        utterance_id = utterance_id or f"utterance-{next(self._numbers)}"
        rate = self.session.audio_format.sample_rate_hz
        async for piece in at_rate(voice, rate, pace):
            while self._ahead_s > MAX_AHEAD_S and not self._done and utterance_id not in self.interrupted:
                self._moved.clear()
                await self._moved.wait()
            if utterance_id in self.interrupted:
                break
            self._ahead_s += len(piece) / SAMPLE_BYTES / rate
            await self.send_audio(piece, utterance_id)
        await self.end_utterance(utterance_id)
        return utterance_id

    async def send_audio(self, data: bytes, utterance_id: str) -> None:
        """Send voice in the session's `audio_format`, in pieces under 1 MiB. Raises `ClientError`."""
        if utterance_id not in self._begun and utterance_id not in self.interrupted:
            self._begun.append(utterance_id)
        for offset in range(0, len(data), MAX_PIECE_BYTES):
            piece = data[offset : offset + MAX_PIECE_BYTES]
            chunk = pb2.AudioChunk(data=piece, utterance_id=utterance_id, sequence=self.next_sequence)
            self.next_sequence += 1
            await self.send(pb2.StreamAvatarRequest(audio=chunk))

    async def end_utterance(self, utterance_id: str) -> None:
        """No more voice in this utterance."""
        await self.send(pb2.StreamAvatarRequest(end_utterance=pb2.EndUtterance(utterance_id=utterance_id)))

    async def interrupt(self) -> None:
        """Stop speaking at the next block; an INTERRUPTED event tells what was dropped.

        What was made before still comes, frames and sound alike; its utterances are in `interrupted`, and `play` leaves it out.
        """
        self.interrupted.extend(self._begun)
        self._begun.clear()
        self._ahead_s = 0.0
        self._moved.set()
        await self.send(pb2.StreamAvatarRequest(interrupt=pb2.Interrupt()))

    async def update(self, prompt: str, from_pts_us: int = 0) -> None:
        """Another prompt from the first block at or after this media time, in microseconds; 0 is the next block."""
        await self.send(pb2.StreamAvatarRequest(update=pb2.Update(prompt=prompt, from_pts_us=from_pts_us)))

    async def ack(self, next_frame: int) -> None:
        """Every frame before `next_frame` was shown: the server may go on."""
        await self.send(pb2.StreamAvatarRequest(ack=pb2.Ack(next_frame=next_frame)))

    async def close(self) -> None:
        """Ask the server to finish what was sent and end the session; go on iterating until it has."""
        await self.send(pb2.StreamAvatarRequest(close=pb2.Close()))

    def __aiter__(self) -> AsyncIterator[Payload]:
        return self

    async def __anext__(self) -> Payload:
        raise NotImplementedError

    def _took(self, payload: Payload) -> None:
        """That is yielded now."""
        if isinstance(payload, pb2.VideoChunk):
            spoken = sum(frame.utterance_id != "" for frame in payload.frames)
            self._ahead_s = max(0.0, self._ahead_s - spoken / self.session.fps)
            self._moved.set()

    def _finish(self) -> None:
        """Nothing is yielded any more, and nothing can be sent."""
        self._done = True
        self._moved.set()
