"""Clients that look on while the service is struck, and compare every frame with an undisturbed run."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from liveact.v1 import avatar_pb2 as pb2
from liveact_services.cli.bench.chaos.outcome import Viewer
from liveact_services.client import AvatarClient, AvatarSession, Outage, RecordedVoice
from liveact_services.client.voice import audio_format
from liveact_services.errors import ClientError

UTTERANCE = "speech"
LONGEST_VOICE_BYTES = 960_000
"""What one request carries. The whole voice is one request, so that no cut can part it: what a block hears does not depend on
when voice arrives."""
RETRY_S = 1.0
LONGEST_RETRY_S = 5.0
"""Who was told to come later comes all the same: a seat without a session shows nothing of the blows."""


@dataclass(frozen=True)
class Play:
    """What every session does: one portrait, one voice, a seed of its own."""

    portrait: bytes
    voice: RecordedVoice
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if len(self.voice.pcm) > LONGEST_VOICE_BYTES:
            raise ValueError(f"a voice of {len(self.voice.pcm)} bytes: accepted are at most {LONGEST_VOICE_BYTES}")

    def config(self, seed: int, pacing: pb2.Pacing) -> pb2.SessionConfig:
        """JPEG, whose bytes survive a failover; with a held clock blocks are the same at either pacing."""
        config = pb2.SessionConfig(
            image=self.portrait, width=self.size[0], height=self.size[1], seed=seed, codec=pb2.VIDEO_CODEC_JPEG,
            pacing=pacing, idle_policy=pb2.IDLE_POLICY_HOLD,
        )  # fmt: skip
        config.audio_format.CopyFrom(audio_format(self.voice))
        return config


@dataclass
class Reel:
    """A session's picture and sound, as digests."""

    frames: list[bytes] = field(default_factory=list)
    sound: hashlib._Hash = field(default_factory=hashlib.sha256)

    def video(self, chunk: pb2.VideoChunk) -> int:
        """Note some frames; gives the index of the first."""
        self.frames.extend(hashlib.sha256(frame.data).digest() for frame in chunk.frames)
        return chunk.frames[0].index


async def undisturbed(client: AvatarClient, play: Play, seed: int) -> Reel:
    """What a session of this seed gives, as fast as it goes. Raises `ClientError`."""
    reel = Reel()
    async with client.stream(play.config(seed, pb2.PACING_FASTEST)) as stream:
        await stream.ready()
        await stream.send_audio(play.voice.pcm, UTTERANCE)
        await stream.end_utterance(UTTERANCE)
        await stream.close()
        async for message in stream:
            if isinstance(message, pb2.VideoChunk):
                reel.video(message)
            elif isinstance(message, pb2.AudioSpan):
                reel.sound.update(message.data)
    return reel


class Audience:
    """Viewers side by side, each with one session after the other until it is told that the last one has begun."""

    def __init__(self, client: AvatarClient, play: Play, reels: Mapping[int, Reel], sessions: int) -> None:
        self._client, self._play, self._reels, self._sessions = client, play, reels, sessions
        self.viewers: list[Viewer] = []
        self.refused = 0
        self._last = asyncio.Event()

    async def watch(self) -> None:
        """Until every viewer's last session has ended."""
        async with asyncio.TaskGroup() as tasks:
            for place in range(self._sessions):
                tasks.create_task(self._sit(place))

    def leave_after_this(self) -> None:
        """Begin no more sessions."""
        self._last.set()

    async def _sit(self, place: int) -> None:
        seeds, turn = sorted(self._reels), place
        # Not all at once, so that a blow meets sessions at different places.
        await asyncio.sleep(0.5 * place)
        while not self._last.is_set():
            seed = seeds[turn % len(seeds)]
            turn += 1
            await self._session(seed)

    async def _session(self, seed: int) -> None:
        config = self._play.config(seed, pb2.PACING_REALTIME)
        began, viewer = time.perf_counter(), Viewer(seed)

        def resumed(outage: Outage) -> None:
            viewer.reconnections.append(time.perf_counter())

        try:
            async with self._client.stream(config, on_resume=resumed) as stream:
                # A place on a Denoiser is found after the session was introduced.
                await stream.ready()
                viewer.began = began
                self.viewers.append(viewer)
                await self._see(stream, viewer, self._reels[seed])
        except ClientError as error:
            if viewer.began:
                viewer.error = viewer.error or str(error)
                return
            # Nothing was lost that had begun.
            self.refused += 1
            await asyncio.sleep(min(error.retry_after_s or RETRY_S, LONGEST_RETRY_S))
        finally:
            viewer.ended = time.perf_counter()

    async def _see(self, stream: AvatarSession, viewer: Viewer, expected: Reel) -> None:
        await stream.send_audio(self._play.voice.pcm, UTTERANCE)
        await stream.end_utterance(UTTERANCE)
        await stream.close()
        reel, fps = Reel(), stream.session.fps
        delay = stream.session.playout_delay.ToTimedelta().total_seconds()
        async for message in stream:
            if isinstance(message, pb2.VideoChunk):
                first = reel.video(message)
                viewer.video([frame.index for frame in message.frames], stream.arrived_at, delay, fps)
                viewer.unequal += sum(
                    a != b for a, b in zip(reel.frames[first:], expected.frames[first:], strict=False)
                )
            elif isinstance(message, pb2.AudioSpan):
                reel.sound.update(message.data)
            else:
                viewer.migrations += message.type == pb2.EVENT_TYPE_MIGRATED
        if len(reel.frames) != len(expected.frames):
            viewer.error = f"{len(reel.frames)} frames came, {len(expected.frames)} are made undisturbed"
        elif reel.sound.digest() != expected.sound.digest():
            viewer.error = "the sound differs"
