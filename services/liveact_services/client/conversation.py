"""What a client says and hears, whether over one call or over as many as it takes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeAlias

from liveact.v1 import avatar_pb2 as pb2

MAX_PIECE_BYTES = 960_000
"""Longest voice piece sent; under the API's 1 MiB and whole samples in every format (a multiple of 2, 4, 6 and 8)."""

Payload: TypeAlias = pb2.VideoChunk | pb2.AudioSpan | pb2.Event


class Conversation:
    """The verbs of a session. Iterating gives `VideoChunk`, `AudioSpan` and `Event`; one task may iterate while another sends."""

    def __init__(self) -> None:
        self.next_sequence = 0
        """Number of the next voice piece."""
        self.arrived_at = 0.0
        """When the message yielded last came off the wire, in seconds of `time.perf_counter`."""

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

    async def send_audio(self, data: bytes, utterance_id: str) -> None:
        """Send voice in the session's `audio_format`, in pieces under 1 MiB. Raises `ClientError`."""
        for offset in range(0, len(data), MAX_PIECE_BYTES):
            piece = data[offset : offset + MAX_PIECE_BYTES]
            chunk = pb2.AudioChunk(data=piece, utterance_id=utterance_id, sequence=self.next_sequence)
            self.next_sequence += 1
            await self.send(pb2.StreamAvatarRequest(audio=chunk))

    async def end_utterance(self, utterance_id: str) -> None:
        """No more voice in this utterance."""
        await self.send(pb2.StreamAvatarRequest(end_utterance=pb2.EndUtterance(utterance_id=utterance_id)))

    async def interrupt(self) -> None:
        """Stop speaking at the next block; an INTERRUPTED event tells what was dropped."""
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
