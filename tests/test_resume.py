"""A session goes on by itself when its connection breaks: every frame, sample and event once, whatever was cut and when."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from grpc import StatusCode

from conftest import Service, tone
from liveact.v1 import avatar_pb2 as pb
from liveact_services.cli.bench.chaos.forwarder import Forwarder
from liveact_services.client import AvatarClient, AvatarSession, RecordedVoice, ResumeFailed, ResumePolicy, speak
from liveact_services.errors import ClientError
from liveact_services.gateway import deployment
from resume_fixtures import IMPATIENT, Script, Taken, TellingStages, pieces, played, until
from tenant_fixtures import serving, session

pytest_plugins = ["session_fixtures", "tenant_fixtures"]

RATE = 16000


def speech(seconds: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([tone(0.2, RATE, float(rng.uniform(90, 400))) for _ in range(round(seconds * 5))])


def conversation(first_s: float, second_s: float, *, unheard: bool) -> Script:
    """Two utterances in pieces, with an interrupt and a new prompt in between.

    All of it leaves no choice to the moment it arrives at: the interrupt comes when the first utterance has been spoken, or
    else, `unheard`, with so little voice of another one that no block can hold it yet.
    """

    async def script(stream: AvatarSession, taken: Taken) -> None:
        for piece in pieces(speech(first_s, 1)):
            await stream.send_audio(piece, "first")
        await stream.end_utterance("first")
        await until(lambda: "SPEECH_ENDED" in taken.kinds())
        if unheard:
            await stream.send_audio(pieces(speech(0.4, 2))[0], "unheard")
        await stream.interrupt()
        await stream.update("A person laughs out loud.")
        for piece in pieces(speech(second_s, 3)):
            await stream.send_audio(piece, "second")
        await stream.end_utterance("second")
        await stream.close()

    return script


def bytes_until_cut(seed: int, least: int, most: int) -> Any:
    """Drawn evenly by their logarithm: connections that are cut at once and ones that last."""
    draw = random.Random(seed)
    return lambda: round(least * (most / least) ** draw.random())


def assert_same(taken: Taken, undisturbed: Taken) -> None:
    assert taken.indices == list(range(len(undisturbed.frames)))
    assert taken.bytes == undisturbed.bytes
    assert taken.sound == undisturbed.sound
    assert taken.kinds() == undisturbed.kinds()


# ---- the Gateway in this process -----------------------------------------------------------------------------------------


@pytest.fixture
def telling(in_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "serve_stages", lambda *_: TellingStages())


@pytest.mark.usefixtures("telling")
@pytest.mark.parametrize(
    ("pacing", "lengths", "cuts", "budget"),
    [(pb.PACING_FASTEST, (4.0, 3.0), 50, (3_000, 250_000)), (pb.PACING_REALTIME, (1.2, 1.0), 8, (4_000, 200_000))],
)
async def test_a_connection_cut_at_random_moments_costs_no_frame_no_sample_and_no_event(
    redis_url: str, pacing: Any, lengths: tuple[float, float], cuts: int, budget: tuple[int, int]
) -> None:
    config = session(pacing=pacing, idle_policy=pb.IDLE_POLICY_HOLD)
    script = conversation(*lengths, unheard=pacing == pb.PACING_FASTEST)
    async with serving(redis_url) as at, Forwarder(at.address, bytes_until_cut(7, *budget)) as forwarder:
        async with at.client() as client:
            undisturbed = await played(client, config, script)
        assert undisturbed.kinds().count("INTERRUPTED") == undisturbed.kinds().count("PROMPT_APPLIED") == 1
        reconnections = 0
        while forwarder.cuts < cuts:
            async with AvatarClient(forwarder.address) as client:
                taken = await played(client, config, script)
            assert_same(taken, undisturbed)
            reconnections += taken.reconnections
        # A connection may break twice while one outage is mended, and on a slow machine does.
        assert reconnections >= cuts * 0.5
        print(f"{forwarder.cuts} cuts, {reconnections} resumed")


@pytest.mark.usefixtures("telling")
async def test_a_sender_is_served_though_nobody_reads_and_the_connection_breaks_all_the_time(redis_url: str) -> None:
    async with (
        serving(redis_url) as at,
        Forwarder(at.address, bytes_until_cut(3, 4_000, 150_000)) as forwarder,
        AvatarClient(forwarder.address) as client,
        client.stream(session(), resume=IMPATIENT) as stream,
    ):
        await stream.ready()
        voice = speech(8.0, 4)
        async with asyncio.timeout(30):
            for piece in pieces(voice, (6400,)):
                await stream.send_audio(piece, "a")
                await asyncio.sleep(0.01)
            await stream.end_utterance("a")
            await stream.close()
        assert len(stream.outages) > 1
        assert stream.last_stall_s > 0
        taken = Taken()
        async for message in stream:
            taken.take(message, RATE)
    assert taken.indices == list(range(len(taken.frames)))
    assert taken.sound[: 2 * len(voice)] == b"".join(pieces(voice))


@pytest.mark.usefixtures("telling")
async def test_what_is_sent_in_an_outage_waits_and_beyond_a_bound_the_sender_waits_too(redis_url: str) -> None:
    policy = ResumePolicy(limit_s=20, first_wait_s=0.05, longest_wait_s=0.1, queue_bytes=50_000)
    async with (
        serving(redis_url) as at,
        Forwarder(at.address) as forwarder,
        AvatarClient(forwarder.address) as client,
        client.stream(session(), resume=policy) as stream,
    ):
        await stream.ready()
        forwarder.refusing = True
        forwarder.cut()
        await until(lambda: stream.connected is False)
        voice = b"".join(pieces(speech(3.0, 5)))
        async with asyncio.timeout(1):
            await stream.send_audio(voice[:32_000], "a")
        waiting = asyncio.create_task(stream.send_audio(voice[32_000:], "a"))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        forwarder.refusing = False
        async with asyncio.timeout(5):
            await waiting
        await stream.close()
        taken = Taken()
        async for message in stream:
            taken.take(message, RATE)
    assert taken.sound[: len(voice)] == voice


@pytest.mark.usefixtures("telling")
async def test_a_proxy_that_dies_after_the_client_has_closed_costs_no_frame(redis_url: str) -> None:
    """What was asked for last was the end: that the way back is gone is noticed all the same."""

    async def broken() -> AsyncIterator[pb.StreamAvatarRequest]:
        yield pb.StreamAvatarRequest(close=pb.Close())
        raise ConnectionError("the proxy died")

    config = session(pacing=pb.PACING_REALTIME, idle_policy=pb.IDLE_POLICY_HOLD)
    async with serving(redis_url) as at, at.client() as client, client.stream(config, resume=IMPATIENT) as stream:
        await stream.ready()
        await stream.send_audio(b"".join(pieces(speech(3.0, 8))), "a")
        await stream.end_utterance("a")
        taken = Taken()
        async for message in stream:
            taken.take(message, RATE)
            if len(taken.frames) == 21 and isinstance(message, pb.VideoChunk):
                live = at.gateway._live[stream.session.name.partition("/")[2]]
                await at.gateway._read(broken(), live, live._streams)
    assert [outage.cause.reason for outage in stream.outages] == ["STREAM_NOT_CLOSED"]
    assert taken.indices == list(range(85))
    assert taken.kinds()[-1] == "CLOSED"


@pytest.mark.usefixtures("telling")
async def test_a_session_that_another_client_takes_over_is_not_taken_back(redis_url: str) -> None:
    async with serving(redis_url) as at, at.client() as client, client.stream(session(), resume=IMPATIENT) as stream:
        await stream.ready()
        async with client.resume(stream.session.resume_token, 0):
            with pytest.raises(ClientError) as caught:
                _ = [message async for message in stream]
            assert caught.value.reason == "SESSION_TAKEN_OVER"
            with pytest.raises(ClientError, match="SESSION_TAKEN_OVER"):
                await stream.send_audio(bytes(320), "a")
        assert stream.outages == []


@pytest.mark.usefixtures("telling")
async def test_a_session_that_expired_meanwhile_says_so(redis_url: str) -> None:
    limits = {"detached_timeout_s": 0.3}
    async with (
        serving(redis_url, sessions=limits) as at,
        Forwarder(at.address) as forwarder,
        AvatarClient(forwarder.address) as client,
        client.stream(session(), resume=IMPATIENT) as stream,
    ):
        await stream.ready()
        forwarder.refusing = True
        forwarder.cut()
        await asyncio.sleep(1.0)
        forwarder.refusing = False
        with pytest.raises(ClientError) as caught:
            _ = [message async for message in stream]
    assert caught.value.reason in ("RESUME_TOKEN_EXPIRED", "SESSION_EXPIRED")


@pytest.mark.usefixtures("telling")
async def test_a_service_that_stays_away_is_given_up_after_the_limit_and_the_error_says_what_was_tried(
    redis_url: str,
) -> None:
    policy = ResumePolicy(limit_s=1.0, first_wait_s=0.05, longest_wait_s=0.2)
    async with (
        serving(redis_url) as at,
        Forwarder(at.address) as forwarder,
        AvatarClient(forwarder.address) as client,
        client.stream(session(), resume=policy) as stream,
    ):
        await stream.ready()
        forwarder.refusing = True
        forwarder.cut()
        began = time.monotonic()
        with pytest.raises(ResumeFailed) as caught:
            _ = [message async for message in stream]
        assert 0.9 < time.monotonic() - began < 4
        assert caught.value.code is StatusCode.UNAVAILABLE
        assert caught.value.attempts >= 4
        for told in (stream.session.name, "within 1 s", f"attempt {caught.value.attempts}", "UNAVAILABLE"):
            assert told in str(caught.value)
        with pytest.raises(ResumeFailed):
            await stream.interrupt()


@pytest.mark.usefixtures("telling")
async def test_a_client_that_is_closed_ends_its_sessions_and_tries_nothing(redis_url: str) -> None:
    async with serving(redis_url) as at:
        client = at.client()
        async with client.stream(session(), resume=IMPATIENT) as stream:
            await stream.ready()
            await client.close()
            with pytest.raises(ClientError, match="closed"):
                async with asyncio.timeout(5):
                    _ = [message async for message in stream]


@pytest.mark.usefixtures("telling")
async def test_a_spoken_voice_is_whole_and_its_report_counts_the_reconnections(redis_url: str) -> None:
    told = []
    voice = RecordedVoice(b"".join(pieces(speech(6.0, 6))), RATE)
    async with serving(redis_url) as at, Forwarder(at.address, bytes_until_cut(5, 10_000, 200_000)) as forwarder:
        async with AvatarClient(forwarder.address) as client:
            report = await speak(client, session(), voice, pace="fastest", resume=IMPATIENT, on_resume=told.append)
        async with at.client() as client:
            calm = await speak(client, session(), voice, pace="fastest")
    assert report.reconnections == len(told) > 0
    assert report.outage_s == pytest.approx(sum(outage.seconds for outage in told))
    assert "connection broken" in list(report.table("stream").columns[0].cells)
    assert "connection broken" not in list(calm.table("stream").columns[0].cells)
    assert (report.frames, report.audio_s, calm.reconnections) == (calm.frames, calm.audio_s, 0)


# ---- the whole service ---------------------------------------------------------------------------------------------------


async def undisturbed_and_cut(
    service: Service, config: pb.SessionConfig, script: Script, cuts: int, budget: tuple[int, int]
) -> None:
    async with AvatarClient(service.address) as client:
        # A session is opened once or not at all, so what opens it must fit before the first cut.
        config.avatar = (await client.create_avatar(config.image)).name
        undisturbed = await played(client, config, script)
    async with Forwarder(service.address, bytes_until_cut(11, *budget)) as forwarder:
        while forwarder.cuts < cuts:
            async with AvatarClient(forwarder.address) as client:
                assert_same(await played(client, config, script), undisturbed)
        print(f"{forwarder.cuts} cuts")


def jpeg(portrait: bytes, pacing: Any) -> pb.SessionConfig:
    return session(image=portrait, codec=pb.VIDEO_CODEC_JPEG, pacing=pacing, idle_policy=pb.IDLE_POLICY_HOLD, seed=5)


async def test_a_cut_connection_costs_the_whole_service_s_client_no_byte(service: Service, portrait: bytes) -> None:
    script = conversation(2.0, 1.5, unheard=True)
    await undisturbed_and_cut(service, jpeg(portrait, pb.PACING_FASTEST), script, 5, (8_000, 200_000))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("pacing", [pb.PACING_FASTEST, pb.PACING_REALTIME])
async def test_fifty_cuts_cost_the_whole_service_s_client_no_byte(
    service: Service, portrait: bytes, pacing: Any
) -> None:
    script = conversation(5.0, 4.0, unheard=pacing == pb.PACING_FASTEST)
    await undisturbed_and_cut(service, jpeg(portrait, pacing), script, 50, (8_000, 200_000))
