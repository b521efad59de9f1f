"""The same sessions without a service: the Conductor and the five models in this process, behind the client's own face."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Self

from liveact.v1 import avatar_pb2 as pb2
from liveact_models.portrait import prepare_portrait
from liveact_models.voice import decode_pcm
from liveact_services.client.conversation import Conversation, Payload
from liveact_services.conductor.conductor import Conductor
from liveact_services.conductor.local import LocalModels, LocalStages
from liveact_services.conductor.outputs import Event, Happening, Output
from liveact_services.conductor.stages import SessionSpec
from liveact_services.gateway.messages import CODECS, duration, responses


class LocalSession(Conversation):
    """One session over the models of this process. Frames are acknowledged as they are taken."""

    def __init__(self, models: LocalModels, spec: SessionSpec, portrait: bytes, credit_frames: int) -> None:
        super().__init__()
        self._spec, self._portrait, self._stages = spec, portrait, LocalStages(models)
        self._received: asyncio.Queue[tuple[Payload, float] | None] = asyncio.Queue()
        self._conductor = Conductor(spec, self._stages, self._emit, credit_frames=credit_frames)
        self._running: asyncio.Task[None] | None = None
        self._shown = 0

    async def __aenter__(self) -> Self:
        portrait = await asyncio.to_thread(prepare_portrait, self._portrait, self._spec.width, self._spec.height)
        await self._stages.open(self._spec, portrait.image)
        self._emit(Event(Happening.READY, 0.0))
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._running is not None
        self._running.cancel()
        await asyncio.wait({self._running})
        await self._stages.close()

    @property
    def session(self) -> pb2.Session:
        spec = self._spec
        return pb2.Session(
            name=f"sessions/{spec.session}", width=spec.width, height=spec.height, fps=spec.fps, codec=CODECS[spec.codec],
            audio_format=pb2.AudioFormat(sample_rate_hz=spec.rate, channels=1),
            playout_delay=duration(self._conductor.clock.playout_delay),
        )  # fmt: skip

    async def ready(self) -> None:
        """It is, once it was entered."""

    async def send(self, request: pb2.StreamAvatarRequest) -> None:
        match request.WhichOneof("payload"):
            case "audio":
                samples = decode_pcm(request.audio.data, rate=self._spec.rate, channels=1, encoding="s16le")
                self._conductor.hear(request.audio.utterance_id, samples)
            case "end_utterance":
                self._conductor.end_utterance(request.end_utterance.utterance_id)
            case "interrupt":
                self._conductor.interrupt()
            case "close":
                self._conductor.finish()
            case kind:
                raise ValueError(f"{kind}: a session of one process takes voice, interrupts and close")

    async def __anext__(self) -> Payload:
        if self._shown > self._conductor.acked_frames:
            self._conductor.ack(self._shown)
        received = await self._received.get()
        if received is None:
            assert self._running is not None
            await self._running
            raise StopAsyncIteration
        payload, self.arrived_at = received
        if isinstance(payload, pb2.VideoChunk):
            self._shown = payload.frames[-1].index + 1
        self._took(payload)
        return payload

    async def _run(self) -> None:
        try:
            await self._conductor.run()
        finally:
            self._finish()
            self._received.put_nowait(None)

    def _emit(self, output: Output) -> None:
        for response in responses(output, self._spec):
            payload = getattr(response, response.WhichOneof("payload") or "event")
            self._received.put_nowait((payload, time.perf_counter()))
