"""What a program sees of a session through the SDK: frames with their sound, interrupts, deadlines, errors, no event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from avatar_fixtures import RATE, SIDE, PaintingStages, counting
from conftest import EXAMPLES
from liveact.v1 import avatar_pb2 as pb
from liveact_services.client import (
    AvatarClient,
    BadInput,
    BlockingClient,
    DeadlineExceeded,
    Moment,
    RecordedVoice,
    Unavailable,
    WrongState,
    play,
)
from liveact_services.client.playback import Sounds
from liveact_services.client.voice import at_rate
from liveact_services.gateway import deployment
from resume_fixtures import Calls, admitted, listening
from tenant_fixtures import picture, serving

pytest_plugins = ["session_fixtures", "tenant_fixtures"]

RAW: dict[str, Any] = {"size": (SIDE, SIDE), "codec": pb.VIDEO_CODEC_RGB, "sample_rate_hz": RATE}


@pytest_asyncio.fixture
async def address(in_process: None, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> AsyncIterator[str]:
    monkeypatch.setattr(deployment, "serve_stages", lambda *_: PaintingStages())
    async with serving(redis_url) as gateway:
        yield gateway.address


async def test_every_frame_comes_with_the_sound_that_belongs_to_it(address: str) -> None:
    voice = counting(3.0)
    async with AvatarClient(address) as client, client.session(picture(), pacing=pb.PACING_FASTEST, **RAW) as session:
        await session.ready()
        name = await session.speak(voice)
        await session.close()
        moments = [m async for m in play(session, pace="fastest") if isinstance(m, Moment)]
    assert [m.index for m in moments] == list(range(len(moments)))
    assert all((m.pixels == m.index % 251).all() for m in moments)
    sound = np.concatenate([m.sound for m in moments])
    assert len(sound) == len(moments) * RATE // 20
    heard = np.frombuffer(voice.pcm, "<i2")
    # What a float carries of 16 bits comes back to the sample.
    np.testing.assert_allclose(sound[: len(heard)], heard, atol=1)
    assert not sound[len(heard) :].any()
    assert {m.utterance_id for m in moments if m.sound.any()} == {name}


async def test_an_interrupt_leaves_no_old_frame_and_no_old_sound_to_the_viewer(address: str) -> None:
    async with AvatarClient(address) as client, client.session(picture(), **RAW) as session:
        await session.ready()
        old = await session.speak(counting(6.0))
        interrupted, after, new = False, [], ""
        async with asyncio.timeout(40):
            async for moment in play(session, delay_s=0):
                if not isinstance(moment, Moment):
                    continue
                if not interrupted and moment.utterance_id == old:
                    interrupted = True
                    await session.interrupt()
                    new = await session.speak(counting(1.0))
                    await session.close()
                elif interrupted:
                    after.append(moment)
    stale = [m for m in after if m.stale]
    assert stale, "frames of the old utterance were on their way"
    assert {m.utterance_id for m in stale} == {old}
    assert not any(m.sound.any() for m in stale)
    assert len({m.pixels[0, 0, 0] for m in stale}) == 1, "the picture stands"
    assert old not in {m.utterance_id for m in after if not m.stale}
    assert new in {m.utterance_id for m in after if m.sound.any()}


async def test_sound_is_cut_by_frames_whatever_stretches_it_comes_in() -> None:
    sounds = Sounds(16000, 30)
    samples = np.arange(1, 1601, dtype="<i2")
    sounds.add(pb.AudioSpan(pts_us=0, data=samples[:700].tobytes()))
    sounds.add(pb.AudioSpan(pts_us=round(700 / 16000 * 1e6), data=samples[700:].tobytes()))
    frames = [sounds.take(n) for n in range(4)]
    assert [len(f) for f in frames] == [533, 534, 533, 533]
    assert (np.concatenate(frames)[:1600] == samples).all()
    assert not np.concatenate(frames)[1600:].any()
    sounds.add(pb.AudioSpan(pts_us=10_000_000, data=samples.tobytes()))
    assert (sounds.take(300) == samples[:533]).all(), "a session that is joined in the middle starts there"


async def test_a_voice_of_another_rate_is_resampled_to_the_sessions() -> None:
    seconds = np.arange(48000) / 48000
    tone = RecordedVoice((8000 * np.sin(2 * np.pi * 300 * seconds)).astype("<i2").tobytes(), 48000)
    pcm = b"".join([piece async for piece in at_rate(tone, 16000, "fastest")])
    samples = np.frombuffer(pcm, "<i2").astype(float)
    assert abs(len(samples) - 16000) < 50
    spectrum = np.abs(np.fft.rfft(samples[:16000]))
    assert abs(int(spectrum.argmax()) - 300) <= 1


async def test_speaking_waits_for_the_viewer_once_it_is_far_ahead(address: str) -> None:
    async with AvatarClient(address) as client, client.session(picture(), pacing=pb.PACING_FASTEST, **RAW) as session:
        await session.ready()
        speaking = asyncio.create_task(session.speak(counting(45.0)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(speaking), 1.0)
        async for moment in play(session, pace="fastest"):
            if speaking.done() and session.next_sequence >= 45:
                break
            assert isinstance(moment, Moment | pb.Event)
        await speaking


async def test_a_program_without_an_event_loop_speaks_and_sees(address: str) -> None:
    def program() -> tuple[list[Moment], str]:
        with BlockingClient(address, timeout_s=20) as client:
            assert client.server_info().preset == "tiny"
            with client.session(picture(), pacing=pb.PACING_FASTEST, **RAW) as session:
                session.ready()
                name = session.speak(EXAMPLES / "voice.wav")
                session.close()
                moments = [m for m in session.play(pace="fastest") if isinstance(m, Moment)]
            record = client.get_session(session.session.name)
            assert record.state == pb.SESSION_STATE_CLOSED
            return moments, name

    moments, name = await asyncio.to_thread(program)
    assert len(moments) >= 8.3 * 20
    assert any(m.utterance_id == name and m.sound.any() for m in moments)


async def test_blocking_calls_raise_what_the_asynchronous_ones_raise(address: str) -> None:
    def program() -> None:
        with BlockingClient(address) as client:
            with pytest.raises(BadInput) as caught, client.session(b"no picture", **RAW):
                pass
            assert caught.value.reason == "IMAGE_FORMAT_UNSUPPORTED"
            with client.session(picture(), **RAW) as session:
                session.ready()
                session.interrupt()
                session.speak(counting(0.5), "once")
                with pytest.raises(WrongState) as again:  # noqa: PT012 - told to whoever speaks or iterates first
                    session.speak(counting(0.5), "once")
                    for _ in session:
                        pass
                assert again.value.reason == "UTTERANCE_ENDED"

    await asyncio.to_thread(program)


async def test_a_server_that_does_not_answer_is_a_deadline_exceeded() -> None:
    async def silent(heard: list[Any], context: Any) -> AsyncIterator[pb.StreamAvatarResponse]:
        await asyncio.sleep(30)
        yield admitted()

    async with listening(Calls(silent)) as port, AvatarClient(f"127.0.0.1:{port}", timeout_s=0.5) as client:
        with pytest.raises(DeadlineExceeded):
            async with client.session(picture()):
                pass


async def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    began = time.monotonic()
    async with AvatarClient("127.0.0.1:1", timeout_s=20) as client:
        with pytest.raises(Unavailable):
            await client.server_info()
        with pytest.raises(OSError):
            client.session(tmp_path / "nobody.jpg")
    assert time.monotonic() - began < 20
