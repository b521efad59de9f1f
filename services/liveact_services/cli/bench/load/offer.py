"""Real clients of `liveact bench load`: each comes once, is admitted or told when to come back, and watches its blocks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import grpc

from liveact.v1 import avatar_pb2 as pb2
from liveact_services.client import AvatarClient, AvatarSession, RecordedVoice
from liveact_services.client.viewer_clock import ViewerClock
from liveact_services.client.voice import SAMPLE_BYTES, audio_format
from liveact_services.denoiser.admission import PATIENCE_S
from liveact_services.denoiser.offered import LATE
from liveact_services.errors import ClientError


@dataclass(frozen=True)
class Offer:
    """What every client brings."""

    portrait: bytes
    voice: RecordedVoice
    width: int
    height: int
    token: str | None = None

    def config(self, seed: int) -> pb2.SessionConfig:
        config = pb2.SessionConfig(
            image=self.portrait, width=self.width, height=self.height, seed=seed, codec=pb2.VIDEO_CODEC_JPEG,
            pacing=pb2.PACING_REALTIME, idle_policy=pb2.IDLE_POLICY_HOLD,
        )  # fmt: skip
        config.audio_format.CopyFrom(audio_format(self.voice))
        return config

    def part(self, share: float) -> RecordedVoice:
        """The beginning of the voice."""
        size = round(len(self.voice.pcm) / SAMPLE_BYTES * min(1.0, share)) * SAMPLE_BYTES
        return RecordedVoice(self.voice.pcm[:size], self.voice.rate)


@dataclass
class Caller:
    """One client: when it came, what it was told, and what it saw. Moments are seconds of `time.perf_counter`."""

    seed: int
    share: float
    """Of the offer's voice that it speaks."""
    came: float = 0.0
    told_s: float | None = None
    """When it was told to come back, in seconds from then, if it was refused."""
    let_in_again: bool | None = None
    """Whether it was admitted then or up to a fifth of that time later; None for who did not come back."""
    admitted: float | None = None
    ended: float | None = None
    blocks: set[int] = field(default_factory=set)
    late: set[int] = field(default_factory=set)
    """Blocks of which frames came after they were due."""
    frames: int = 0
    longest_stall_s: float = 0.0
    stalls: int = 0
    spoke: float | None = None
    """When it began to speak."""
    spoken: float | None = None
    """When the first frame of what it says came."""
    error: str = ""
    """Why it did not go as it should."""

    @property
    def first_frame_s(self) -> float | None:
        """From the first byte of its voice to the first frame of that."""
        return None if self.spoken is None or self.spoke is None else self.spoken - self.spoke

    async def attend(self, client: AvatarClient, offer: Offer, returns: bool = True) -> None:
        """Come, come back if told so and it is to be soon, and stay until the voice has been spoken."""
        self.came = time.perf_counter()
        try:
            if (again := await self._session(client, offer)) is None:
                return
            self.told_s = again
            if again > PATIENCE_S or not returns:
                return
            latest = time.perf_counter() + (1 + LATE) * again
            while time.perf_counter() + again <= latest:
                await asyncio.sleep(again)
                if (told := await self._session(client, offer, self._let_in)) is None:
                    return
                again = told
            self.let_in_again = False
        except ClientError as error:
            self.error = str(error)

    def _let_in(self) -> None:
        self.let_in_again = True

    async def _session(
        self, client: AvatarClient, offer: Offer, admitted: Callable[[], None] = lambda: None
    ) -> float | None:
        """One session, or in how many seconds to come back. Raises `ClientError` for any other end."""
        try:
            async with client.stream(offer.config(self.seed)) as stream:
                await stream.ready()
                self.admitted = time.perf_counter()
                admitted()
                await self._watch(stream, offer.part(self.share))
        except ClientError as error:
            if self.admitted is None and error.code is grpc.StatusCode.UNAVAILABLE and error.retry_after_s is not None:
                return error.retry_after_s
            raise
        finally:
            self.ended = time.perf_counter()
        return None

    async def _watch(self, stream: AvatarSession, voice: RecordedVoice) -> None:
        agreed = stream.session
        clock = ViewerClock(agreed.fps, agreed.playout_delay.ToTimedelta().total_seconds())
        speaking = asyncio.create_task(self._speak(stream, voice))
        try:
            async for message in stream:
                if isinstance(message, pb2.VideoChunk):
                    if self.spoken is None and any(frame.utterance_id for frame in message.frames):
                        self.spoken = stream.arrived_at
                    self._see(message, clock.came(len(message.frames), stream.arrived_at))
            await speaking
        finally:
            speaking.cancel()

    def _see(self, chunk: pb2.VideoChunk, late_s: float) -> None:
        """Some frames came, so much later than they were due."""
        self.blocks.add(chunk.block)
        self.frames += len(chunk.frames)
        if late_s:
            self.stalls += 1
            self.late.add(chunk.block)
            self.longest_stall_s = max(self.longest_stall_s, late_s)

    async def _speak(self, stream: AvatarSession, voice: RecordedVoice) -> None:
        self.spoke = time.perf_counter()
        await stream.speak(voice, pace="realtime")
        await stream.close()


def in_time(callers: Iterable[Caller]) -> float | None:
    """Share of their blocks of which every frame came before it was due; None where there were none."""
    seen = list(callers)
    blocks = sum(len(caller.blocks) for caller in seen)
    return 1 - sum(len(caller.late) for caller in seen) / blocks if blocks else None
