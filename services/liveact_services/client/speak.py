"""One voice through one session, from config to the last frame."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from liveact.v1 import avatar_pb2 as pb2
from liveact_services.client.client import AvatarClient
from liveact_services.client.report import StreamMeter, StreamReport
from liveact_services.client.resuming import Outage, ResumePolicy
from liveact_services.client.session import AvatarSession
from liveact_services.client.voice import SAMPLE_BYTES, Pace, Voice, audio_format

UTTERANCE = "speech"
MAX_AHEAD_S = 30.0
"""Voice sent ahead of the picture at the fastest pace, in seconds; well under what a server keeps waiting."""


class Sink(Protocol):
    """Where a stream's picture and sound go. Called from a worker thread, one call at a time, in the order received."""

    def open(self, session: pb2.Session) -> None:
        """The session was admitted; nothing came yet."""

    def video(self, chunk: pb2.VideoChunk) -> None:
        """Some frames."""

    def audio(self, span: pb2.AudioSpan) -> None:
        """The sound that belongs to frames."""


async def speak(
    client: AvatarClient,
    config: pb2.SessionConfig,
    voice: Voice,
    *,
    pace: Pace = "realtime",
    sink: Sink | None = None,
    progress: Callable[[int, float], None] | None = None,
    on_event: Callable[[pb2.Event], None] | None = None,
    resume: ResumePolicy | None = None,
    on_resume: Callable[[Outage], None] | None = None,
) -> StreamReport:
    """Open a session, send the voice as one utterance, close, and take in everything until the server ends the stream.

    `config` is completed with the voice's audio format. `progress` hears of frames and seconds of video received.
    `resume` says for how long a broken connection is tried to be mended, and `on_resume` is told when it was. Raises
    `ClientError` when the session fails, and whatever the voice and the sink raise.
    """
    asked = pb2.SessionConfig()
    asked.CopyFrom(config)
    asked.audio_format.CopyFrom(audio_format(voice))
    meter = StreamMeter(UTTERANCE)
    advanced = asyncio.Event()

    async def send(stream: AvatarSession) -> None:
        await stream.ready()
        meter.ready_at = time.perf_counter()
        async for piece in voice.pieces(pace):
            while meter.voice_s - meter.frames / stream.session.fps > MAX_AHEAD_S:
                advanced.clear()
                await advanced.wait()
            meter.voice(len(piece) / SAMPLE_BYTES / voice.rate)
            await stream.send_audio(piece, UTTERANCE)
        await stream.end_utterance(UTTERANCE)
        await stream.close()

    async def receive(stream: AvatarSession) -> None:
        async for message in stream:
            match message:
                case pb2.VideoChunk():
                    meter.video(message, stream.arrived_at)
                    advanced.set()
                    if sink is not None:
                        await asyncio.to_thread(sink.video, message)
                    if progress is not None:
                        progress(meter.frames, meter.frames / stream.session.fps)
                case pb2.AudioSpan():
                    meter.sound(message)
                    if sink is not None:
                        await asyncio.to_thread(sink.audio, message)
                case pb2.Event() if on_event is not None:
                    on_event(message)

    try:
        async with (
            client.stream(asked, resume=resume or True, on_resume=on_resume) as stream,
            asyncio.TaskGroup() as tasks,
        ):
            if sink is not None:
                await asyncio.to_thread(sink.open, stream.session)
            sending = tasks.create_task(send(stream))
            await receive(stream)
            if not sending.done():
                # The server ended the session early, and said so in its last event: what is left to send has no hearer.
                sending.cancel()
    except BaseExceptionGroup as group:
        # Sender and receiver fail together when the stream breaks; either tells the whole story.
        raise group.exceptions[0] from None
    return meter.report(stream.session, stream.outages)
