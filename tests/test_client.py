"""The client against a real gRPC server: what it sends, what it makes of answers, and what it writes to files."""

from __future__ import annotations

import asyncio
import io
import os
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from grpc import StatusCode

from avatar_peer import AvatarPeer, frames, picture, serving, session, tone
from liveact.v1 import avatar_pb2 as pb2
from liveact_services.client import (
    AvatarClient,
    FramePipe,
    LiveVoice,
    MediaError,
    Mp4Recorder,
    RecordedVoice,
    decode_frames,
    read_voice,
    speak,
)
from liveact_services.client.report import viewer_stalls
from liveact_services.errors import ClientError, fail

RATE = 16000


# ---- the stream ----------------------------------------------------------------------------------------------------------


async def test_voice_is_numbered_without_gap_and_stays_under_a_mebibyte():
    peer = AvatarPeer()
    async with serving(peer) as target, AvatarClient(target) as client, client.stream(pb2.SessionConfig()) as stream:
        await stream.ready()
        await stream.send_audio(tone(0.5, RATE), "first")
        await stream.end_utterance("first")
        await stream.send_audio(bytes(2_000_000), "second")
        await stream.send_audio(b"", "second")
        await _until(lambda: len(peer.received("audio")) == 4)
    pieces = peer.received("audio")
    assert [piece.sequence for piece in pieces] == [0, 1, 2, 3]
    assert [piece.utterance_id for piece in pieces] == ["first", "second", "second", "second"]
    assert all(0 < len(piece.data) < 1024 * 1024 and len(piece.data) % 2 == 0 for piece in pieces)
    assert sum(len(piece.data) for piece in pieces[1:]) == 2_000_000
    assert peer.received("end_utterance") == [pb2.EndUtterance(utterance_id="first")]


async def test_consuming_acknowledges_and_so_passes_the_credit():
    peer = AvatarPeer(credit=9)
    received = await _spoken(peer, seconds=2.0)
    assert [f.index for chunk in received for f in chunk.frames] == list(range(40))
    acks = [ack.next_frame for ack in peer.received("ack")]
    assert acks == sorted(acks)
    assert acks[:2] == [1, 5]


async def test_without_auto_ack_nothing_is_acknowledged_until_the_caller_does():
    peer = AvatarPeer(credit=9)
    config = pb2.SessionConfig()
    async with serving(peer) as at, AvatarClient(at) as client, client.stream(config, auto_ack=False) as stream:
        await stream.ready()
        await stream.send_audio(tone(2, RATE), "u")
        await stream.close()
        videos = (message async for message in stream if isinstance(message, pb2.VideoChunk))
        for _ in range(3):
            await anext(videos)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(videos), 0.2)
        assert peer.received("ack") == []
        await stream.ack(9)
        chunk = await anext(stream)
        assert isinstance(chunk, pb2.VideoChunk)
        assert chunk.frames[0].index == 9


async def test_control_messages_carry_what_was_said():
    peer = AvatarPeer()
    async with serving(peer) as target, AvatarClient(target) as client, client.stream(pb2.SessionConfig()) as stream:
        await stream.interrupt()
        await stream.update("smiling", 1_600_000)
        await stream.close()
        assert [message async for message in stream][-1].type == pb2.EVENT_TYPE_CLOSED
    assert len(peer.received("interrupt")) == 1
    assert peer.received("update") == [pb2.Update(prompt="smiling", from_pts_us=1_600_000)]


async def test_resume_sends_the_token_is_ready_at_once_and_goes_on_counting():
    peer = AvatarPeer()
    token = "token-of-one"
    async with serving(peer) as at, AvatarClient(at) as client, client.resume(token, 21) as stream:
        await asyncio.wait_for(stream.ready(), 5)
        await stream.send_audio(tone(0.1, RATE), "u")
        await _until(lambda: bool(peer.received("audio")))
    assert peer.requests[0].config == pb2.SessionConfig(resume=pb2.Resume(token="token-of-one", next_frame=21))
    assert peer.received("audio")[0].sequence == 7


async def test_a_refused_config_surfaces_with_its_reason():
    peer = AvatarPeer()
    peer.refuse = fail("SIZE_UNSUPPORTED", "size 10x10: both sides must be positive multiples of 16")
    async with serving(peer) as target, AvatarClient(target) as client:
        with pytest.raises(ClientError) as caught:
            async with client.stream(pb2.SessionConfig(width=10, height=10)):
                pytest.fail("the stream opened")
    assert (caught.value.reason, caught.value.code) == ("SIZE_UNSUPPORTED", StatusCode.INVALID_ARGUMENT)
    assert caught.value.field == "config.width"


@pytest.mark.parametrize("resume", [True, False])
async def test_a_session_that_is_lost_raises_from_the_iteration_and_from_sending(resume):
    peer = AvatarPeer()
    peer.break_after = 13
    seen = 0
    config = pb2.SessionConfig()
    async with serving(peer) as at, AvatarClient(at) as client, client.stream(config, resume=resume) as stream:
        await stream.ready()
        await stream.send_audio(tone(2, RATE), "u")
        await stream.close()
        with pytest.raises(ClientError) as caught:  # noqa: PT012
            async for message in stream:
                seen += len(message.frames) if isinstance(message, pb2.VideoChunk) else 0
        assert seen == 13
        assert (caught.value.reason, caught.value.retry_after_s) == ("SESSION_LOST", 2.5)
        assert caught.value.resumable
        with pytest.raises(ClientError) as caught:
            await stream.send_audio(tone(0.1, RATE), "u")
        assert caught.value.reason == "SESSION_LOST"


async def test_a_stream_that_ends_before_ready_fails_ready_but_not_the_iteration():
    peer = AvatarPeer()
    peer.becomes_ready = False
    config = pb2.SessionConfig()
    async with serving(peer) as at, AvatarClient(at) as client, client.stream(config, resume=False) as stream:
        with pytest.raises(ClientError, match="before READY"):
            await stream.ready()
        assert [message async for message in stream] == []


async def test_nobody_listening_is_unavailable_without_a_reason():
    async with AvatarClient("127.0.0.1:1") as client:
        with pytest.raises(ClientError) as caught:
            await client.server_info()
        assert (caught.value.code, caught.value.reason) == (StatusCode.UNAVAILABLE, "")
        with pytest.raises(ClientError) as caught:
            async with client.stream(pb2.SessionConfig()):
                pytest.fail("the stream opened")
        assert caught.value.code is StatusCode.UNAVAILABLE


async def test_messages_beyond_four_mebibytes_arrive():
    agreed = session(pb2.VIDEO_CODEC_RGB, width=1024, height=512)
    received = await _spoken(AvatarPeer(agreed), seconds=0.25)
    assert max(chunk.ByteSize() for chunk in received) > 4 * 1024 * 1024


async def test_unary_calls_return_the_resource_and_raise_with_a_reason():
    peer = AvatarPeer()
    async with serving(peer) as target, AvatarClient(target) as client:
        assert (await client.create_avatar(b"png", "Eileen")).display_name == "Eileen"
        assert [s.name for s in await client.list_sessions()] == ["sessions/one"]
        assert (await client.server_info()).preset == "tiny"
        with pytest.raises(ClientError) as caught:
            await client.create_avatar(b"")
    assert caught.value.reason == "IMAGE_EMPTY"


# ---- speaking and measuring ----------------------------------------------------------------------------------------------


async def test_speaking_pace_is_kept_and_measured():
    peer, events = AvatarPeer(), []
    async with serving(peer) as target, AvatarClient(target) as client:
        report = await speak(
            client, pb2.SessionConfig(prompt="p"), RecordedVoice(tone(0.6, 24000), 24000), on_event=events.append
        )
    pieces = peer.received("audio")
    assert {len(piece.data) for piece in pieces} == {2 * 960}
    assert len(pieces) == 15
    assert peer.requests[0].config.audio_format.sample_rate_hz == 24000
    assert (report.frames, report.video_s, report.voice_s, report.audio_s) == (12, 0.6, pytest.approx(0.6), 0.6)
    # The peer answers after the last piece, so the first frame cannot come before 0.56 s of voice.
    assert 0.5 < report.first_frame_s < 3
    assert 0 < report.ready_s < 3
    assert report.realtime_factor > 0.9
    assert report.busy_factor == pytest.approx(0.05 * 4 / 0.6)  # four chunks
    assert report.playout_delay_s == 0.7
    assert [e.type for e in events] == [pb2.EVENT_TYPE_READY, pb2.EVENT_TYPE_CLOSED]


async def test_fastest_pace_sends_seconds_and_does_not_wait():
    peer, progress = AvatarPeer(), []
    async with serving(peer) as target, AvatarClient(target) as client:
        report = await speak(
            client, pb2.SessionConfig(), RecordedVoice(tone(5.5, RATE), RATE), pace="fastest",
            progress=lambda count, seconds: progress.append((count, seconds)),
        )  # fmt: skip
    assert [len(piece.data) // 2 for piece in peer.received("audio")] == [RATE] * 5 + [RATE // 2]
    assert report.realtime_factor < 1
    assert progress[-1] == (110, 5.5)


async def test_a_sink_that_fails_ends_the_stream_with_its_own_error():
    class Full:
        def open(self, session): ...
        def audio(self, span): ...
        def video(self, chunk):
            raise OSError(28, "No space left on device")

    async with serving(AvatarPeer()) as target, AvatarClient(target) as client:
        with pytest.raises(OSError, match="No space"):
            await speak(client, pb2.SessionConfig(), RecordedVoice(tone(0.5, RATE), RATE), pace="fastest", sink=Full())


async def test_a_broken_stream_reaches_the_caller_of_speak_as_client_error():
    peer = AvatarPeer()
    peer.break_after = 5
    async with serving(peer) as target, AvatarClient(target) as client:
        with pytest.raises(ClientError) as caught:
            await speak(client, pb2.SessionConfig(), RecordedVoice(tone(0.5, RATE), RATE), pace="fastest")
    assert caught.value.reason == "SESSION_LOST"


@pytest.mark.parametrize(
    ("arrivals", "counts", "stalls", "seconds"),
    [
        ([0.0, 0.2, 0.4], [4, 4, 4], 0, 0.0),  # in time without the delay even
        ([0.0, 0.69, 0.5], [4, 4, 4], 0, 0.0),  # due at 0.5 + 0.2
        ([0.0, 1.0, 1.1], [4, 4, 4], 1, 0.3),  # 0.3 late; the next is due 0.3 later and in time
        ([0.0, 1.0, 2.0], [4, 4, 4], 2, 1.1),  # 0.3 late, then 2.0 against 0.5 + 0.4 + 0.3
        ([], [], 0, 0.0),
    ],
)
def test_a_viewer_stalls_when_a_frame_is_late_and_plays_on_from_there(arrivals, counts, stalls, seconds):
    assert viewer_stalls(arrivals, counts, fps=20, delay=0.5) == (stalls, pytest.approx(seconds))


# ---- voices --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "expected"), [(24000, 24000), (11025, 48000)])
def test_a_sound_file_keeps_an_accepted_rate_and_takes_48_kHz_otherwise(tmp_path: Path, rate: int, expected: int):
    pcm = tone(1.0, rate)
    with wave.open(str(tmp_path / "v.wav"), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(pcm)
    voice = read_voice(tmp_path / "v.wav")
    assert voice.rate == expected
    assert voice.seconds == pytest.approx(1.0, abs=0.002)
    if rate == expected:
        assert voice.pcm == pcm


async def test_live_voice_hands_out_whole_samples_until_it_is_stopped():
    reader = asyncio.StreamReader()
    voice = LiveVoice(reader, RATE)
    pieces = voice.pieces("realtime")
    reader.feed_data(b"abc")
    assert await anext(pieces) == b"ab"
    reader.feed_data(b"def")
    assert await anext(pieces) == b"cdef"
    voice.stop()
    assert [piece async for piece in pieces] == []


# ---- files and pipes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [pb2.VIDEO_CODEC_H264, pb2.VIDEO_CODEC_JPEG, pb2.VIDEO_CODEC_RGB])
def test_frames_decode_to_the_picture(codec):
    agreed = session(codec)
    pixels = decode_frames(frames(agreed, 40), agreed)
    assert pixels.shape == (40, 48, 64, 3)
    expected = np.stack([picture(i, 64, 48) for i in range(40)])
    assert np.abs(pixels.astype(int) - expected).mean() < (0.1 if codec == pb2.VIDEO_CODEC_RGB else 8)


def test_a_frame_that_is_not_its_codec_is_named():
    agreed = session(pb2.VIDEO_CODEC_JPEG)
    with pytest.raises(MediaError, match="frame 7"):
        decode_frames([pb2.VideoFrame(index=7, codec=agreed.codec, data=b"no JPEG")], agreed)


@pytest.mark.parametrize("fps", [20, 24, 30])
def test_h264_is_recorded_bit_for_bit_with_every_frame_lasting_its_time(tmp_path: Path, fps: int):
    agreed = session(fps=fps)
    sent = frames(agreed, 70)
    with Mp4Recorder(tmp_path / "deep" / "a.mp4") as recorder:
        _record(recorder, agreed, sent, tone(70 / fps, RATE))
        assert not recorder.path.exists()
    assert not recorder.part.exists()
    with av.open(str(recorder.path)) as file:
        video, sound = file.streams.video[0], file.streams.audio[0]
        assert (video.codec_context.name, sound.codec_context.name) == ("h264", "aac")
        assert float(video.duration * video.time_base) == pytest.approx(70 / fps, abs=1e-4)
        assert float(sound.duration * sound.time_base) == pytest.approx(70 / fps, abs=1024 / RATE)
        decoded = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in file.decode(video)]
    assert [time for time, _ in decoded] == pytest.approx([i / fps for i in range(70)], abs=1e-4)
    assert np.array_equal(np.stack([pixels for _, pixels in decoded]), decode_frames(sent, agreed))


@pytest.mark.parametrize("codec", [pb2.VIDEO_CODEC_JPEG, pb2.VIDEO_CODEC_RGB])
def test_other_codecs_are_encoded_to_h264(tmp_path: Path, codec):
    agreed = session(codec)
    with Mp4Recorder(tmp_path / "a.mp4") as recorder:
        _record(recorder, agreed, frames(agreed, 45), tone(45 / 20, RATE))
    with av.open(str(recorder.path)) as file:
        video = file.streams.video[0]
        assert video.codec_context.name == "h264"
        assert float(video.duration * video.time_base) == pytest.approx(45 / 20, abs=1e-4)
        pixels = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video)])
    expected = np.stack([picture(i, 64, 48) for i in range(45)])
    assert np.abs(pixels.astype(int) - expected).mean() < 10


def test_a_recording_of_a_later_part_starts_at_zero(tmp_path: Path):
    agreed = session()
    with Mp4Recorder(tmp_path / "a.mp4") as recorder:
        _record(recorder, agreed, frames(agreed, 32, first=53), tone(1.6, RATE))
    with av.open(str(recorder.path)) as file:
        assert next(file.decode(video=0)).time == 0
        assert file.duration / 1e6 == pytest.approx(1.6, abs=1024 / RATE)


def test_sound_stays_on_the_media_clock_across_holes_and_repeats(tmp_path: Path):
    agreed = session()
    with Mp4Recorder(tmp_path / "a.mp4") as recorder:
        recorder.open(agreed)
        recorder.video(pb2.VideoChunk(frames=frames(agreed, 60)))
        quiet, loud = bytes(2 * RATE), tone(1, RATE)
        recorder.audio(pb2.AudioSpan(pts_us=0, data=quiet))
        recorder.audio(pb2.AudioSpan(pts_us=500_000, data=quiet[:RATE]))  # heard already
        recorder.audio(pb2.AudioSpan(pts_us=2_000_000, data=loud))  # one second is missing
    with av.open(str(recorder.path)) as file:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
    level = [np.abs(sound[second * RATE + 2000 : (second + 1) * RATE - 2000]).mean() for second in range(3)]
    assert level[0] < 1e-3
    assert level[1] < 1e-3
    assert level[2] > 0.1
    assert len(sound) == pytest.approx(3 * RATE, abs=2048)


def test_after_a_failure_the_part_file_stays_and_plays(tmp_path: Path):
    agreed = session()
    recorder = Mp4Recorder(tmp_path / "a.mp4")

    def fail_while_recording() -> None:
        with recorder:
            _record(recorder, agreed, frames(agreed, 21), tone(1.05, RATE))
            raise ClientError(StatusCode.UNAVAILABLE, "gone")

    with pytest.raises(ClientError):
        fail_while_recording()
    assert not recorder.path.exists()
    with av.open(str(recorder.part), format="mp4") as file:
        assert sum(1 for _ in file.decode(video=0)) == 21


def test_a_session_without_a_frame_leaves_no_file(tmp_path: Path):
    with Mp4Recorder(tmp_path / "a.mp4") as recorder:
        recorder.open(session())
    assert list(tmp_path.iterdir()) == []


async def test_frames_behind_an_acknowledgement_that_comes_too_late_are_not_lost():
    """The server ends at once after its last frame; the acknowledgements of the first meet an ended stream."""
    for _ in range(10):
        received = await _spoken(AvatarPeer(credit=1000), seconds=3.0)
        assert [f.index for chunk in received for f in chunk.frames] == list(range(60))


def test_a_pipe_carries_mpeg_ts_with_sound():
    agreed, pipe = session(), io.BytesIO()
    sink = FramePipe(pipe)
    _record(sink, agreed, frames(agreed, 40), tone(2, RATE))
    before = len(pipe.getvalue())
    sink.close()
    assert before > 0.8 * len(pipe.getvalue())  # it is watched live
    with av.open(io.BytesIO(pipe.getvalue()), format="mpegts") as file:
        assert sum(1 for _ in file.decode(video=0)) == 40
    with av.open(io.BytesIO(pipe.getvalue()), format="mpegts") as file:
        assert sum(frame.samples for frame in file.decode(audio=0)) >= 2 * RATE


def test_a_pipe_carries_bare_frames():
    agreed, pipe = session(pb2.VIDEO_CODEC_RGB), io.BytesIO()
    sink = FramePipe(pipe, "rgb")
    _record(sink, agreed, frames(agreed, 3), tone(0.15, RATE))
    assert pipe.getvalue() == b"".join(picture(i, 64, 48).tobytes() for i in range(3))


def test_a_player_that_leaves_is_noticed():
    read, write = os.pipe()
    os.close(read)
    agreed = session()
    with os.fdopen(write, "wb", buffering=0) as pipe, pytest.raises(BrokenPipeError):
        _record(FramePipe(pipe), agreed, frames(agreed, 40), tone(2, RATE))


# ---- helpers -------------------------------------------------------------------------------------------------------------


async def _spoken(peer: AvatarPeer, seconds: float) -> list[pb2.VideoChunk]:
    async with serving(peer) as target, AvatarClient(target) as client, client.stream(pb2.SessionConfig()) as stream:
        await stream.ready()
        await stream.send_audio(tone(seconds, RATE), "u")
        await stream.end_utterance("u")
        await stream.close()
        return [message async for message in stream if isinstance(message, pb2.VideoChunk)]


async def _until(condition, timeout: float = 5.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.01)


def _record(sink, agreed: pb2.Session, sent: list[pb2.VideoFrame], pcm: bytes) -> None:
    """Block by block, the sound ahead of its frames."""
    sink.open(agreed)
    samples = agreed.audio_format.sample_rate_hz // agreed.fps
    for start in range(0, len(sent), 32):
        block = sent[start : start + 32]
        end = None if start + 32 >= len(sent) else 2 * samples * (start + 32)
        sink.audio(pb2.AudioSpan(pts_us=block[0].pts_us, data=pcm[2 * samples * start : end]))
        for i in range(0, len(block), 4):
            sink.video(pb2.VideoChunk(frames=block[i : i + 4]))
