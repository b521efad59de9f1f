"""LiveAct as the avatar of a LiveKit agent: a `VideoGenerator` for `livekit.agents.voice.avatar.AvatarRunner`.

    async with AvatarClient("127.0.0.1:9000") as client, client.session("face.jpg") as session:
        generator = LiveActVideoGenerator(session)
        runner = AvatarRunner(
            room, audio_recv=DataStreamAudioReceiver(room), video_gen=generator, options=generator.options
        )
        await runner.start()
        await runner.wait_for_complete()

The agent's side sends its voice with `DataStreamAudioOutput`, or with `QueueAudioOutput` where both are one process.
Needs the extra `livekit`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from livekit import rtc
from livekit.agents.voice.avatar import AudioSegmentEnd, AvatarOptions, VideoGenerator

from liveact.v1 import avatar_pb2 as pb2
from liveact_services.adapters.utterances import Utterances
from liveact_services.client import AvatarSession, Moment, play


class LiveActVideoGenerator(VideoGenerator):
    """Voice in, synchronized picture and sound out, through a session that is open.

    Each segment of the agent's voice is one utterance. Frames come at the session's rate whether somebody speaks or not;
    sound comes only with frames that are spoken, so that the runner's playback position is that of the segment. A segment's
    end is told when its last frame has been given, and not for a segment that was cleared. The session's errors are raised
    where the runner iterates.
    """

    def __init__(self, session: AvatarSession) -> None:
        self._session = session
        self._utterances = Utterances(session)

    @property
    def options(self) -> AvatarOptions:
        """What the runner publishes."""
        agreed = self._session.session
        return AvatarOptions(
            video_width=agreed.width, video_height=agreed.height, video_fps=agreed.fps,
            audio_sample_rate=agreed.audio_format.sample_rate_hz, audio_channels=1,
        )  # fmt: skip

    async def push_audio(self, frame: rtc.AudioFrame | AudioSegmentEnd) -> None:
        """Voice of the present segment, at any rate, or its end."""
        await self._session.ready()
        if isinstance(frame, AudioSegmentEnd):
            await self._utterances.end()
        else:
            await self._utterances.hear(bytes(frame.data), frame.sample_rate, frame.num_channels)

    async def clear_buffer(self) -> None:
        """Stop speaking: nothing old is given from the next frame on; the last picture stands until newer ones are due."""
        await self._utterances.interrupt()

    async def __aiter__(self) -> AsyncIterator[rtc.VideoFrame | rtc.AudioFrame | AudioSegmentEnd]:
        """Picture, sound and ends of segments, each when it is due."""
        async for item in play(self._session):
            match item:
                case Moment():
                    height, width = item.pixels.shape[:2]
                    yield rtc.VideoFrame(width, height, rtc.VideoBufferType.RGB24, item.pixels.tobytes())
                    if item.utterance_id and not item.stale:
                        rate = self._session.session.audio_format.sample_rate_hz
                        yield rtc.AudioFrame(item.sound.tobytes(), rate, 1, len(item.sound))
                case pb2.Event(type=pb2.EVENT_TYPE_SPEECH_ENDED) if item.utterance_id not in self._session.interrupted:
                    yield AudioSegmentEnd()
