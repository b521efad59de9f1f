"""LiveAct as a service of a Pipecat pipeline, between the TTS and the output transport.

    pipeline = Pipeline([transport.input(), stt, llm, tts, LiveActVideoService("face.jpg"), transport.output()])

Needs the extra `pipecat`. Give the transport `video_out_enabled=True`, `video_out_is_live=False` and the session's frame rate.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InterruptionFrame,
    OutputImageRawFrame,
    StartFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
)
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.ai_service import AIService
from pipecat.services.settings import ServiceSettings

from liveact.v1 import avatar_pb2 as pb2
from liveact_services.adapters.utterances import Utterances
from liveact_services.client import AvatarClient, AvatarSession, ClientError, Moment, play

LAST_WORDS_S = 60.0
"""How long the end of a pipeline waits for what is still to be spoken."""
GOODBYE_S = 5.0
"""How long a session that is given up is told so."""


class LiveActVideoService(AIService):
    """Takes a TTS's audio and gives frames with the sound that belongs to them, all the time the pipeline runs.

    `TTSAudioRawFrame`s become a session's voice and come back later, each behind the `OutputImageRawFrame` it is spoken in;
    `TTSStoppedFrame` follows the last of them. Everything else passes at once. While nobody speaks there are pictures and no
    sound. An `InterruptionFrame` stops both with the next frame, and the picture stands until newer ones are due. With
    `sync_with_audio` a spoken picture is marked to be shown when the sound before it has been; transports that play live
    video (`video_out_is_live`) do not know that mark and need False.

    `portrait` and `options` are `AvatarClient.session`'s, `target` and `token` its client's. A session that fails makes the
    service unusable, with the reason in an error frame.
    """

    def __init__(
        self,
        portrait: bytes | Path | str,
        *,
        target: str = "127.0.0.1:9000",
        token: str | None = None,
        options: dict[str, Any] | None = None,
        sync_with_audio: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(settings=ServiceSettings(model="liveact"), **kwargs)
        self._portrait, self._target, self._token = portrait, target, token
        self._options = options or {}
        self._sync_with_audio = sync_with_audio
        self._stack = AsyncExitStack()
        self._session: AvatarSession | None = None
        self._client: AvatarClient | None = None
        self._utterances: Utterances | None = None
        self._showing: asyncio.Task[None] | None = None
        self._stops: dict[str, TTSStoppedFrame] = {}
        """By utterance: what follows it once it has been shown."""

    async def start(self, frame: StartFrame) -> None:
        """Open the session."""
        await super().start(frame)
        try:
            self._client = await self._stack.enter_async_context(AvatarClient(self._target, token=self._token))
            session = self._client.session(self._portrait, **self._options)
            self._session = await self._stack.enter_async_context(session)
        except (ClientError, OSError) as error:
            await self._fail(error)
            return
        self._utterances = Utterances(self._session)
        self._showing = self.create_task(self._show(self._session))

    async def stop(self, frame: EndFrame) -> None:
        """Speak what is left, then end the session."""
        await super().stop(frame)
        if self._session is not None and self._showing is not None and not self._showing.done():
            with suppress(ClientError):
                await self._session.ready()
                await self._session.close()
                await asyncio.wait({self._showing}, timeout=LAST_WORDS_S)
        await self._leave()

    async def cancel(self, frame: CancelFrame) -> None:
        """End the session as it stands."""
        await super().cancel(frame)
        await self._leave()

    async def cleanup(self) -> None:
        """As `cancel`, where nobody did."""
        await super().cleanup()
        await self._leave()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if self._utterances is None or self._session is None:
            await self.push_frame(frame, direction)
            return
        try:
            match frame:
                case TTSAudioRawFrame():
                    await self._session.ready()
                    await self._utterances.hear(frame.audio, frame.sample_rate, frame.num_channels)
                    return
                case TTSStoppedFrame():
                    if (name := await self._utterances.end()) is not None:
                        self._stops[name] = frame
                        return
                case InterruptionFrame():
                    self._stops.clear()
                    await self._utterances.interrupt()
        except ClientError as error:
            await self._fail(error)
        await self.push_frame(frame, direction)

    async def _show(self, session: AvatarSession) -> None:
        try:
            async for item in play(session):
                match item:
                    case Moment():
                        await self._show_moment(session, item)
                    case pb2.Event(type=pb2.EVENT_TYPE_SPEECH_ENDED):
                        if (stopped := self._stops.pop(item.utterance_id, None)) is not None:
                            await self.push_frame(stopped)
        except ClientError as error:
            await self._fail(error)

    async def _show_moment(self, session: AvatarSession, moment: Moment) -> None:
        height, width = moment.pixels.shape[:2]
        spoken = bool(moment.utterance_id) and not moment.stale
        image = OutputImageRawFrame(image=moment.pixels.tobytes(), size=(width, height), format="RGB")
        image.sync_with_audio = spoken and self._sync_with_audio
        await self.push_frame(image)
        # An interruption may have passed while the picture was handed on.
        if spoken and moment.utterance_id not in session.interrupted:
            rate = session.session.audio_format.sample_rate_hz
            await self.push_frame(TTSAudioRawFrame(audio=moment.sound.tobytes(), sample_rate=rate, num_channels=1))

    async def _fail(self, error: Exception) -> None:
        await self.push_error(f"LiveAct: {error}", exception=error, force_treat_as_permanent=True)

    async def _leave(self) -> None:
        client, session, showing = self._client, self._session, self._showing
        self._client = self._session = self._showing = self._utterances = None
        if showing is not None and not showing.done():
            await self.cancel_task(showing)
            if client is not None and session is not None:
                # A session that is merely left waits for its client, in a place that others could have.
                with suppress(ClientError, TimeoutError):
                    async with asyncio.timeout(GOODBYE_S):
                        await client.delete_session(session.session.name)
        await self._stack.aclose()
