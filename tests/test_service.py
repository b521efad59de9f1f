"""The whole service over real gRPC: what a stream gives, what two give, and what it takes to run them."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from conftest import Service, pcm16, tone
from liveact.v1 import avatar_pb2 as pb
from liveact_models.timeline import block_frames
from liveact_services.client import AvatarClient, AvatarStream

RATE = 16000


def session(portrait: bytes, **fields: Any) -> pb.SessionConfig:
    """RGB at the smallest size and the fastest pace, unless said otherwise."""
    config: dict[str, Any] = {
        "image": portrait, "width": 32, "height": 32, "codec": pb.VIDEO_CODEC_RGB, "pacing": pb.PACING_FASTEST, "seed": 7,
    }  # fmt: skip
    return pb.SessionConfig(**{**config, **fields})


def speech(seconds: float, seed: int = 0) -> np.ndarray:
    """Something that changes all the time: tones with pauses."""
    rng = np.random.default_rng(seed)
    parts = [
        tone(0.2, RATE, float(rng.uniform(90, 400)), float(rng.uniform(0.05, 0.5))) for _ in range(int(seconds * 5))
    ]
    return np.concatenate(parts)


@dataclass
class Heard:
    """All that a stream said."""

    frames: list[pb.VideoFrame] = field(default_factory=list)
    spans: list[pb.AudioSpan] = field(default_factory=list)
    events: list[pb.Event] = field(default_factory=list)

    def take(self, message: Any) -> None:
        if isinstance(message, pb.VideoChunk):
            self.frames.extend(message.frames)
        elif isinstance(message, pb.AudioSpan):
            self.spans.append(message)
        else:
            self.events.append(message)

    def digest(self) -> str:
        return hashlib.sha256(b"".join(frame.data for frame in self.frames)).hexdigest()

    def sound(self) -> np.ndarray:
        return np.frombuffer(b"".join(span.data for span in self.spans), "<i2")

    def event(self, kind: int) -> pb.Event:
        return next(event for event in self.events if event.type == kind)

    def kinds(self) -> list[str]:
        return [pb.EventType.Name(event.type).removeprefix("EVENT_TYPE_") for event in self.events]


async def say(stream: AvatarStream, voice: np.ndarray, utterance: str = "a", arrived: int = 0) -> None:
    """All of the voice, in uneven pieces; on a stream that goes on, those from `arrived` on, and the end if it is not there."""
    data, sizes = pcm16(voice), (6400, 2, 30000, 1234)
    at, n = 0, 0
    while at < len(data):
        if n >= arrived:
            await stream.send_audio(data[at : at + sizes[n % 4]], utterance)
        at += sizes[n % 4]
        n += 1
    if not arrived or stream.session.next_request <= n:
        await stream.end_utterance(utterance)


async def perform(client: AvatarClient, config: pb.SessionConfig, voice: np.ndarray) -> Heard:
    """One voice through one session."""
    heard = Heard()
    async with client.stream(config) as stream:
        await stream.ready()
        sending = asyncio.create_task(say(stream, voice))
        sending.add_done_callback(lambda _: asyncio.create_task(stream.close()))
        async for message in stream:
            heard.take(message)
    return heard


async def test_a_stream_gives_every_frame_with_its_sound(client: AvatarClient, portrait: bytes) -> None:
    voice = speech(4.0)
    heard = await perform(client, session(portrait), voice)
    frames = len(heard.frames)
    assert [frame.index for frame in heard.frames] == list(range(frames))
    assert [frame.pts_us for frame in heard.frames] == [index * 50_000 for index in range(frames)]
    assert all(len(frame.data) == 32 * 32 * 3 for frame in heard.frames)
    starts = {block_frames(block).start for block in range(10)}
    assert {frame.index for frame in heard.frames if frame.key_frame} == starts & set(range(frames))
    sound = heard.sound()
    assert len(sound) == frames * RATE // 20
    np.testing.assert_array_equal(sound[: len(voice)], np.frombuffer(pcm16(voice), "<i2"))
    assert not sound[len(voice) :].any()
    assert 0 <= len(sound) / RATE - 4.0 <= 1.6 + 0.1
    assert heard.kinds() == ["READY", "SPEECH_STARTED", "SPEECH_ENDED", "CLOSED"]
    assert heard.event(pb.EVENT_TYPE_SPEECH_ENDED).pts_us == 4_000_000
    assert {f.utterance_id for f in heard.frames[:80]} == {"a"}
    assert heard.frames[-1].utterance_id == ""


async def test_two_clients_at_once_each_get_the_frames_of_their_solo_run(client: AvatarClient, portrait: bytes) -> None:
    configs = [session(portrait, seed=1), session(portrait, seed=2, prompt="An angry person shouts.", width=48)]
    voices = [speech(5.0, 1), speech(5.0, 2)]
    alone = [await perform(client, c, v) for c, v in zip(configs, voices, strict=True)]
    together = await asyncio.gather(*(perform(client, c, v) for c, v in zip(configs, voices, strict=True)))
    assert [h.digest() for h in together] == [h.digest() for h in alone]
    assert alone[0].digest() != alone[1].digest()


async def test_four_streams_are_spread_over_replicas_and_keep_to_theirs(
    client: AvatarClient, service: Service, portrait: bytes
) -> None:
    """More sessions than one replica admits: the second takes the rest, and each gets its solo frames all the same."""
    limit = service.config.sessions.max_sessions
    voice = speech(3.0)
    alone = (await perform(client, session(portrait), voice)).digest()
    heard = await asyncio.gather(*(perform(client, session(portrait), voice) for _ in range(limit + 2)))
    assert {h.digest() for h in heard} == {alone}


async def test_beyond_capacity_a_session_is_refused_with_a_time_to_retry(
    client: AvatarClient, service: Service, portrait: bytes
) -> None:
    room = service.config.sessions.max_sessions * service.config.denoiser.replicas
    streams = [client.stream(session(portrait)) for _ in range(room)]
    try:
        for stream in streams:
            await stream.__aenter__()
            await stream.ready()
        one_more = client.stream(session(portrait))
        with pytest.raises(Exception) as raised:
            async with one_more as stream:
                await stream.ready()
        assert raised.value.reason == "CAPACITY"  # type: ignore[attr-defined]
        assert raised.value.retry_after_s > 0  # type: ignore[attr-defined]
    finally:
        for stream in streams:
            await client.delete_session(stream.session.name)
            await stream.__aexit__(None, None, None)
    assert len((await perform(client, session(portrait), speech(1.0))).frames) >= 20


@pytest.mark.parametrize("cut", [1, 21, 30, 53])
async def test_a_stream_that_breaks_is_resumed_without_a_frame_lost_or_sent_twice(
    client: AvatarClient, portrait: bytes, cut: int
) -> None:
    voice = speech(4.0)
    whole = await perform(client, session(portrait), voice)
    heard = Heard()
    async with client.stream(session(portrait), auto_ack=False) as stream:
        token = stream.session.resume_token
        await stream.ready()
        await say(stream, voice)
        async for message in stream:
            heard.take(message)
            if len(heard.frames) >= cut:
                break
    async with client.resume(token, len(heard.frames)) as stream:
        await say(stream, voice, arrived=stream.next_sequence)
        await stream.close()
        async for message in stream:
            heard.take(message)
    assert [frame.index for frame in heard.frames] == list(range(len(whole.frames)))
    assert heard.digest() == whole.digest()
    spans = {span.pts_us: span.data for span in heard.spans}
    assert b"".join(spans.values()) == b"".join(span.data for span in whole.spans)


async def test_interrupt_drops_what_was_not_planned_and_says_how_much(client: AvatarClient, portrait: bytes) -> None:
    heard = Heard()
    config = session(portrait, pacing=pb.PACING_REALTIME, idle_policy=pb.IDLE_POLICY_HOLD)
    async with client.stream(config) as stream:
        await stream.ready()
        await say(stream, speech(20.0))
        interrupted_at = None
        async for message in stream:
            heard.take(message)
            if len(heard.frames) >= 53 and interrupted_at is None:
                interrupted_at = len(heard.frames)
                await stream.interrupt()
            if isinstance(message, pb.Event) and message.type == pb.EVENT_TYPE_INTERRUPTED:
                await stream.close()
    event = heard.event(pb.EVENT_TYPE_INTERRUPTED)
    spoken = len(heard.sound()) / RATE
    discarded = event.interrupted.discarded.ToMicroseconds() / 1e6
    played = event.interrupted.played.ToMicroseconds() / 1e6
    assert spoken + discarded == pytest.approx(20.0, abs=1e-3), (
        "voice is either in the sound sent or said to be dropped"
    )
    assert 0 < played <= spoken
    assert interrupted_at is not None
    assert len(heard.frames) <= interrupted_at + 2 * 32, "the interrupt takes effect at the next block not on its way"


async def test_a_new_prompt_changes_the_frames_from_its_block_on(client: AvatarClient, portrait: bytes) -> None:
    voice = speech(5.0)
    plain = await perform(client, session(portrait), voice)
    heard = Heard()
    async with client.stream(session(portrait)) as stream:
        await stream.ready()
        await stream.update("A person laughs out loud.", from_pts_us=2_000_000)
        await say(stream, voice)
        await stream.close()
        async for message in stream:
            heard.take(message)
    event = heard.event(pb.EVENT_TYPE_PROMPT_APPLIED)
    first = block_frames(event.block).start
    assert (event.block, event.pts_us) == (2, 2_650_000)
    assert [f.data for f in heard.frames[:first]] == [f.data for f in plain.frames[:first]]
    assert all(a.data != b.data for a, b in zip(heard.frames[first:], plain.frames[first:], strict=True))


async def test_without_voice_an_avatar_idles_on_the_wall_clock(client: AvatarClient, portrait: bytes) -> None:
    heard, arrived = Heard(), []
    async with client.stream(session(portrait, pacing=pb.PACING_REALTIME)) as stream:
        await stream.ready()
        began = time.monotonic()
        async for message in stream:
            heard.take(message)
            arrived.append((len(heard.frames), time.monotonic() - began))
            if len(heard.frames) >= 21 + 3 * 32:
                await stream.close()
                break
    ahead = [frames / 20 - seconds for frames, seconds in arrived]
    assert max(ahead) <= 1.05 + 1.6 + 0.5, "at most one block ahead of what is shown"
    assert not heard.sound().any()
    assert {frame.utterance_id for frame in heard.frames} == {""}


async def test_the_service_gives_the_frames_of_the_bare_pipeline(client: AvatarClient, portrait: bytes) -> None:
    """gRPC, Serve and six processes change no bit of the picture."""
    import torch

    from liveact_models.checkpoint import open_checkpoint
    from liveact_models.pipeline import Pipeline
    from liveact_models.voice import Voice, decode_pcm

    data = pcm16(speech(3.0))
    heard = await perform(client, session(portrait), speech(3.0))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        voice = Voice(decode_pcm(data, rate=RATE, channels=1, encoding="s16le"), RATE)
        blocks = Pipeline(open_checkpoint("untrained")).render(portrait, voice, width=32, height=32, seed=7)
        frames = np.concatenate([block.frames for block in blocks])
    finally:
        torch.set_num_threads(threads)
    assert frames.tobytes() == b"".join(frame.data for frame in heard.frames)


@pytest.mark.parametrize("codec", [pb.VIDEO_CODEC_H264, pb.VIDEO_CODEC_JPEG])
async def test_codecs_show_the_picture_of_the_raw_frames(client: AvatarClient, portrait: bytes, codec: Any) -> None:
    from liveact_services.client import decode_frames

    voice = speech(2.0)
    raw, shown = [
        decode_frames(
            (await perform(client, session(portrait, codec=chosen), voice)).frames,
            pb.Session(width=32, height=32, fps=20, codec=chosen),
        )
        for chosen in (pb.VIDEO_CODEC_RGB, codec)
    ]
    assert shown.shape == raw.shape
    # Noise at 32x32 is the hardest picture there is, and chroma is halved: near, not equal, and nearer than any other frame.
    own = np.abs(shown[5].astype(int) - raw[5]).mean()
    others = min(np.abs(shown[5].astype(int) - raw[n]).mean() for n in range(len(raw)) if abs(n - 5) > 4)
    assert own < others


async def test_avatars_are_made_once_and_give_the_frames_of_their_image(client: AvatarClient, portrait: bytes) -> None:
    avatar = await client.create_avatar(portrait, "Eileen")
    assert (avatar.source_width, avatar.source_height) == (512, 512)
    assert avatar.name in [a.name for a in await client.list_avatars()]
    config = session(portrait)
    by_image = await perform(client, config, speech(1.0))
    config.ClearField("image")
    config.avatar = avatar.name
    by_name = await perform(client, config, speech(1.0))
    assert by_name.digest() == by_image.digest()
    await client.delete_avatar(avatar.name)
    assert avatar.name not in [a.name for a in await client.list_avatars()]


async def test_session_records_follow_the_session(client: AvatarClient, portrait: bytes) -> None:
    async with client.stream(session(portrait)) as stream:
        name = stream.session.name
        await stream.ready()
        await asyncio.sleep(0.3)
        assert (await client.get_session(name)).state == pb.SESSION_STATE_READY
        await stream.send_audio(pcm16(speech(2.0)), "a")
        async for message in stream:
            if isinstance(message, pb.VideoChunk):
                break
        await asyncio.sleep(1.5)
        record = await client.get_session(name)
        assert record.state == pb.SESSION_STATE_STREAMING
        assert record.frames >= 21
        assert name in [s.name for s in await client.list_sessions()]
        assert not record.resume_token
        await client.delete_session(name)
    assert (await client.get_session(name)).state == pb.SESSION_STATE_CLOSED


async def test_the_service_says_what_it_is(client: AvatarClient, service: Service) -> None:
    info = await client.server_info()
    assert (info.preset, info.checkpoint, info.min_side) == ("tiny", "untrained", 32)
    async with grpc.aio.insecure_channel(service.address) as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        async for answer in stub.ServerReflectionInfo(asked):
            names = {one.name for one in answer.list_services_response.service}
        assert {"liveact.v1.AvatarService", "grpc.health.v1.Health"} <= names


def test_every_stage_is_a_deployment_of_its_own(service: Service) -> None:
    assert service.running.status() == dict.fromkeys(
        ("Gateway", "Conditioner", "AudioEncoder", "VaeEncoder", "Denoiser", "VaeDecoder", "Vault"), "HEALTHY"
    )


def test_the_whole_service_fits_in_six_gigabytes(service: Service) -> None:
    """With two replicas of the stateful stages even; proportional set size, so that shared libraries count once."""
    ours = psutil.Process()
    family = [ours, *ours.children(recursive=True)]
    total = 0
    for process in family:
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    assert len(family) > 8, "the replicas are not among the processes measured"
    assert total < 6e9
