"""The LiveKit adapter with the real `livekit-agents`: its runner, queue, synchronizer and tracks; the Gateway of this process."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio

pytest.importorskip("livekit.agents", reason="needs the extra livekit: pip install 'liveact-serve[livekit]'")

from livekit import rtc
from livekit.agents.voice.avatar import AudioSegmentEnd, AvatarRunner, QueueAudioOutput, VideoGenerator

from avatar_fixtures import RATE, SIDE, PaintingStages, counting
from conftest import EXAMPLES
from liveact.v1 import avatar_pb2 as pb
from liveact_services.adapters.livekit import LiveActVideoGenerator
from liveact_services.client import AvatarClient, AvatarSession
from liveact_services.gateway import deployment
from resume_fixtures import until
from tenant_fixtures import picture, serving

sys.path.insert(0, str(EXAMPLES))
from livekit_agent import LocalRoom

pytest_plugins = ["session_fixtures", "tenant_fixtures"]
pytestmark = pytest.mark.slow


@pytest_asyncio.fixture
async def session(in_process: None, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> AsyncIterator[AvatarSession]:
    monkeypatch.setattr(deployment, "serve_stages", lambda *_: PaintingStages())
    async with (
        serving(redis_url) as gateway,
        AvatarClient(gateway.address) as client,
        client.session(picture(), size=(SIDE, SIDE), codec=pb.VIDEO_CODEC_RGB, sample_rate_hz=RATE) as session,
    ):
        yield session


def frame(voice: np.ndarray, rate: int = RATE, channels: int = 1) -> rtc.AudioFrame:
    return rtc.AudioFrame(voice.astype("<i2").tobytes(), rate, channels, len(voice) // channels)


def samples(seconds: float, first: int = 1) -> np.ndarray:
    return np.frombuffer(counting(seconds, first=first).pcm, "<i2")


async def test_it_is_a_video_generator_with_the_options_of_its_session(session: AvatarSession) -> None:
    generator = LiveActVideoGenerator(session)
    assert isinstance(generator, VideoGenerator)
    options = generator.options
    assert (options.video_width, options.video_height, options.video_fps) == (SIDE, SIDE, 20)
    assert (options.audio_sample_rate, options.audio_channels) == (RATE, 1)


async def test_a_segment_comes_back_whole_between_pictures_and_ends_once(session: AvatarSession) -> None:
    generator = LiveActVideoGenerator(session)
    voice = samples(2.0)
    for piece in np.split(voice, 20):
        await generator.push_audio(frame(piece))
    await generator.push_audio(AudioSegmentEnd())
    heard, pictures = [], 0
    async with asyncio.timeout(60):
        async for item in generator:
            if isinstance(item, AudioSegmentEnd):
                break
            if isinstance(item, rtc.AudioFrame):
                assert (item.sample_rate, item.num_channels) == (RATE, 1)
                heard.append(np.frombuffer(item.data, "<i2"))
            else:
                assert (item.width, item.height, item.type) == (SIDE, SIDE, rtc.VideoBufferType.RGB24)
                pictures += 1
    sound = np.concatenate(heard)
    assert pictures >= len(heard), "a picture goes with every stretch of sound"
    start = int(np.flatnonzero(sound)[0])
    np.testing.assert_allclose(sound[start : start + len(voice)], voice, atol=1)
    assert not sound[start + len(voice) :].any()
    assert len(sound) < len(voice) + RATE // 5, "silence is not played back as speech"


async def test_voice_of_another_rate_and_two_channels_is_understood(session: AvatarSession) -> None:
    generator = LiveActVideoGenerator(session)
    seconds = np.arange(48000) / 48000
    tone = 8000 * np.sin(2 * np.pi * 500 * seconds)
    await generator.push_audio(frame(np.repeat(tone, 2), 48000, 2))
    await generator.push_audio(AudioSegmentEnd())
    heard = []
    async with asyncio.timeout(60):
        async for item in generator:
            if isinstance(item, AudioSegmentEnd):
                break
            if isinstance(item, rtc.AudioFrame):
                heard.append(np.frombuffer(item.data, "<i2"))
    sound = np.concatenate(heard).astype(float)
    assert abs(np.count_nonzero(np.abs(sound) > 50) / RATE - 1.0) < 0.1
    peak = np.abs(np.fft.rfft(sound)).argmax() / (len(sound) / RATE)
    assert abs(peak - 500) < 3


async def test_a_cleared_segment_gives_no_more_sound_and_no_end(session: AvatarSession) -> None:
    generator = LiveActVideoGenerator(session)
    await generator.push_audio(frame(samples(6.0)))
    await generator.push_audio(AudioSegmentEnd())
    cleared, after = False, []
    async with asyncio.timeout(60):
        async for item in generator:
            if cleared:
                after.append(item)
                if isinstance(item, AudioSegmentEnd):
                    break
            elif isinstance(item, rtc.AudioFrame):
                await generator.clear_buffer()
                await generator.push_audio(frame(samples(1.0, first=20000)))
                await generator.push_audio(AudioSegmentEnd())
                cleared = True
    sound = np.concatenate([np.frombuffer(i.data, "<i2") for i in after if isinstance(i, rtc.AudioFrame)])
    assert sound[sound != 0].min() >= 20000 - 1, "only the new segment is heard"
    assert sum(isinstance(i, AudioSegmentEnd) for i in after) == 1


async def test_the_real_runner_plays_it_into_tracks_and_tells_how_far_it_came(session: AvatarSession) -> None:
    room, output, finished = LocalRoom(), QueueAudioOutput(sample_rate=RATE), []
    output.on("playback_finished", finished.append)
    generator = LiveActVideoGenerator(session)
    runner = AvatarRunner(room, audio_recv=output, video_gen=generator, options=generator.options)  # type: ignore[arg-type]
    await runner.start()
    try:
        await output.capture_frame(frame(samples(2.0)))
        output.flush()
        await until(lambda: len(finished) == 1, 60)
        assert not finished[0].interrupted
        assert finished[0].playback_position == pytest.approx(2.0, abs=0.15)
        await output.capture_frame(frame(samples(6.0, first=20000)))
        output.flush()
        await until(lambda: any(s.max() > 15000 for _, s in room.sounds), 60)
        output.clear_buffer()
        await until(lambda: len(finished) == 2, 60)
        assert finished[1].interrupted
        assert 0 < finished[1].playback_position < 6.0
        await asyncio.sleep(1.0)
        quiet = len(room.sounds)
        await asyncio.sleep(2.0)
        assert not any(s.any() for _, s in room.sounds[quiet:]), "old sound after the runner was cleared"
        assert len(room.pictures) > 20
        assert room.pictures[-1][1].shape == (SIDE, SIDE, 3)
    finally:
        await runner.aclose()
        await room.leave()
