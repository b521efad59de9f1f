"""What a resuming client sends and keeps, against servers that answer by script: also as after the loss of a Gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from grpc import StatusCode

from liveact.v1 import avatar_pb2 as pb
from liveact_services.client import AvatarClient, AvatarSession, RequestsForgotten, ResumePolicy
from liveact_services.errors import ClientError, fail
from resume_fixtures import IMPATIENT, Calls, Taken, admitted, event, listening, sent, sound, until, video

Answers = AsyncIterator[pb.StreamAvatarResponse]
RATE = 16000


async def dies(context: Any) -> None:
    await context.abort(StatusCode.UNAVAILABLE, "the server died")


async def ends(heard: list[Any], context: Any) -> Answers:
    """Says that everything was sent."""
    yield admitted()
    yield event(pb.EVENT_TYPE_CLOSED)


@asynccontextmanager
async def talking(
    *acts: Any, resume: ResumePolicy = IMPATIENT
) -> AsyncIterator[tuple[AvatarSession, list[list[pb.StreamAvatarRequest]]]]:
    """A session with a server of these acts, and what it hears, call by call."""
    calls = Calls(*acts)
    async with (
        listening(calls) as port,
        AvatarClient(f"127.0.0.1:{port}") as client,
        client.stream(pb.SessionConfig(), resume=resume) as stream,
    ):
        yield stream, calls.heard


async def taken_from(stream: Any) -> Taken:
    taken = Taken()
    async for message in stream:
        taken.take(message, RATE)
    return taken


# ---- what is sent again --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "pieces"), [(0, [0, 1, 2, 3]), (2, [1, 2, 3]), (3, [2, 3]), (6, [])])
async def test_requests_are_sent_again_from_where_the_server_wants_them_in_order_and_close_after_them(
    wanted: int, pieces: list[int]
) -> None:
    """Numbers: 0 piece, 1 interrupt, 2 piece, 3 piece, 4 update, 5 piece; another server may want them from further back."""
    asked: list[Any] = []

    async def first(heard: list[Any], context: Any) -> Answers:
        yield admitted()
        await until(lambda: bool(sent(heard, "close")))
        asked.extend(heard[1:])
        await dies(context)

    async def second(heard: list[Any], context: Any) -> Answers:
        yield admitted(next_request=wanted, next_sequence=pieces[0] if pieces else 4)
        await until(lambda: bool(sent(heard, "close")))
        yield event(pb.EVENT_TYPE_CLOSED)

    async with talking(first, second) as (stream, heard):
        await stream.send_audio(b"00", "a")
        await stream.interrupt()
        await stream.send_audio(b"11", "b")
        await stream.send_audio(b"22", "b")
        await stream.update("smiling")
        await stream.send_audio(b"33", "b")
        await stream.close()
        await taken_from(stream)
    assert len(asked) == 7
    assert heard[1][0].config == pb.SessionConfig(resume=pb.Resume(token="token"))
    assert heard[1][1:] == asked[wanted:]
    assert [piece.sequence for piece in sent(heard[1], "audio")] == pieces


async def test_what_the_server_will_never_ask_for_again_is_not_kept() -> None:
    async def server(heard: list[Any], context: Any) -> Answers:
        yield admitted()
        for n in range(1, 40):
            await until(lambda: len(sent(heard, "audio")) >= n)  # noqa: B023
            yield sound(range(n - 1, n), next_request=n)
        await until(lambda: bool(sent(heard, "close")))
        yield event(pb.EVENT_TYPE_CLOSED)

    async with talking(server) as (stream, _):
        for n in range(1, 40):
            await stream.send_audio(bytes(10_000), "a")
            await until(lambda: stream._progress._samples == n * 800)  # noqa: B023
            assert stream._log.kept_bytes < 3 * 10_000
        await stream.close()
        await taken_from(stream)


async def test_a_server_that_wants_more_than_was_kept_is_told_from_one_that_is_away() -> None:
    async def first(heard: list[Any], context: Any) -> Answers:
        yield admitted()
        await until(lambda: len(sent(heard, "audio")) == 10)
        await dies(context)

    async def second(heard: list[Any], context: Any) -> Answers:
        yield admitted(next_request=3)
        await asyncio.sleep(20)

    policy = ResumePolicy(first_wait_s=0.01, keep_bytes=50_000)
    async with talking(first, second, resume=policy) as (stream, heard):
        for _ in range(10):
            await stream.send_audio(bytes(10_000), "a")
        with pytest.raises(RequestsForgotten, match="from number 3 on; those before 6 are not kept"):
            await taken_from(stream)
    assert len(heard) == 2


# ---- what is received again ----------------------------------------------------------------------------------------------


async def test_an_answer_that_starts_inside_a_block_is_cut_to_what_is_missing() -> None:
    """The second server makes the block again, and begins with its events, all its sound and a frame that was there."""
    started = {"kind": pb.EVENT_TYPE_SPEECH_STARTED, "pts_us": 0, "utterance_id": "a"}

    async def first(heard: list[Any], context: Any) -> Answers:
        yield admitted()
        yield event(**started)
        yield sound(range(21))
        yield video(0)
        yield video(1, 2, 3, 4)
        await until(lambda: bool(sent(heard, "ack")))
        yield event(pb.EVENT_TYPE_NOTICE, reason="AUDIO_CLIPPED")
        await dies(context)

    async def second(heard: list[Any], context: Any) -> Answers:
        yield admitted()
        yield event(**started)
        yield event(pb.EVENT_TYPE_NOTICE, reason="AUDIO_CLIPPED")
        yield sound(range(30))
        yield video(0, 1, 2, 3, 4)
        yield video(4, 5, 6)
        yield event(pb.EVENT_TYPE_NOTICE, reason="AUDIO_CLIPPED")
        yield event(pb.EVENT_TYPE_CLOSED)

    async with talking(first, second) as (stream, heard):
        taken = await taken_from(stream)
    assert heard[1][0].config.resume.next_frame == 5
    assert taken.indices == list(range(7))
    assert len(taken.sound) == 2 * 30 * 800
    assert taken.kinds() == ["SPEECH_STARTED", "NOTICE", "NOTICE", "CLOSED"]


async def test_a_server_that_leaves_a_frame_out_is_found_out() -> None:
    async def server(heard: list[Any], context: Any) -> Answers:
        yield admitted()
        yield video(0)
        yield video(2)
        await asyncio.sleep(20)

    async with talking(server) as (stream, _):
        with pytest.raises(ClientError, match="frame 2 came where frame 1 was next"):
            await taken_from(stream)


async def test_acknowledgements_go_on_and_none_is_for_a_frame_before_the_one_resumed_at() -> None:
    async def first(heard: list[Any], context: Any) -> Answers:
        yield admitted()
        for n in range(12):
            yield video(n)
        await until(lambda: sent(heard, "ack")[-1:] == [pb.Ack(next_frame=3)])
        await dies(context)

    async def second(heard: list[Any], context: Any) -> Answers:
        yield admitted()
        await until(lambda: bool(sent(heard, "ack")))
        yield video(12)
        await until(lambda: len(sent(heard, "ack")) == 2)
        yield event(pb.EVENT_TYPE_CLOSED)

    async with talking(first, second) as (stream, heard):
        for _ in range(3):
            await anext(stream)
        await stream.ack(3)
        await until(lambda: bool(stream.outages))
        taken = await taken_from(stream)
    assert taken.indices == list(range(3, 13))
    assert [ack.next_frame for ack in sent(heard[1], "ack")] == [12, 13]


# ---- how calls end -------------------------------------------------------------------------------------------------------


async def broken_by(error: Any) -> tuple[Taken, list[Any]]:
    """A call that ends so after a frame, and one that would go on; what was yielded and what the calls heard."""

    async def first(heard: list[Any], context: Any) -> Answers:
        yield admitted()
        yield video(0)
        yield event(pb.EVENT_TYPE_FAILED, reason=error.reason, message=error.message)
        await context.abort(error.code, error.message, tuple(error.trailing_metadata()))

    async with talking(first, ends) as (stream, heard):
        return await taken_from(stream), heard


@pytest.mark.parametrize("reason", ["STREAM_NOT_CLOSED", "SHUTTING_DOWN", "STORE_UNAVAILABLE", "INTERNAL"])
async def test_an_error_that_ends_the_call_only_is_not_seen_by_the_caller(reason: str) -> None:
    taken, heard = await broken_by(fail(reason, "for now", retry_after_s=0.01))
    assert (taken.indices, taken.kinds(), len(heard)) == ([0], ["CLOSED"], 2)


@pytest.mark.parametrize(
    "reason",
    ["SESSION_LOST", "SESSION_TAKEN_OVER", "SESSION_ENDED", "SESSION_EXPIRED", "ACK_TIMEOUT", "AUDIO_ODD_BYTES",
     "CREDENTIALS_REVOKED", "TENANT_DISABLED", "VOICE_BACKLOG_FULL", "QUOTA_MINUTES"],
)  # fmt: skip
async def test_an_error_that_ends_the_session_is_raised_with_its_reason(reason: str) -> None:
    with pytest.raises(ClientError) as caught:
        await broken_by(fail(reason, "for good"))
    assert caught.value.reason == reason


async def test_a_call_that_ends_without_error_before_the_session_s_end_is_resumed() -> None:
    async def first(heard: list[Any], context: Any) -> Answers:
        yield admitted()
        yield video(0)
        yield event(pb.EVENT_TYPE_GOING_AWAY)

    async with talking(first, ends) as (stream, _):
        assert (await taken_from(stream)).kinds() == ["GOING_AWAY", "CLOSED"]
        assert len(stream.outages) == 1


async def test_a_server_that_says_when_to_come_back_is_left_alone_until_then() -> None:
    times: list[float] = []

    async def first(heard: list[Any], context: Any) -> Answers:
        yield admitted()
        times.append(asyncio.get_running_loop().time())
        error = fail("SHUTTING_DOWN", "this server stops", retry_after_s=0.5)
        await context.abort(error.code, error.message, tuple(error.trailing_metadata()))

    async def second(heard: list[Any], context: Any) -> Answers:
        times.append(asyncio.get_running_loop().time())
        async for response in ends(heard, context):
            yield response

    async with talking(first, second) as (stream, _):
        await taken_from(stream)
    assert times[1] - times[0] >= 0.5


@pytest.mark.parametrize(("frames", "lost"), [(5, ""), (3, "frames 3 to 4 were lost with the connection")])
async def test_a_session_that_ended_as_asked_while_the_client_was_away_is_whole_or_says_what_is_missing(
    frames: int, lost: str
) -> None:
    """The record says five frames."""

    async def first(heard: list[Any], context: Any) -> Answers:
        yield admitted()
        await until(lambda: bool(sent(heard, "close")))
        yield video(*range(frames))
        await dies(context)

    async def second(heard: list[Any], context: Any) -> Answers:
        error = fail("SESSION_ENDED", "the session has ended")
        await context.abort(error.code, error.message, tuple(error.trailing_metadata()))
        yield admitted()

    async with talking(first, second) as (stream, _):
        await stream.close()
        if lost:
            with pytest.raises(ClientError, match=lost) as caught:
                await taken_from(stream)
            assert caught.value.reason == "SESSION_ENDED"
        else:
            taken = await taken_from(stream)
            assert (taken.indices, taken.kinds()) == (list(range(5)), ["CLOSED"])


async def test_a_server_that_dies_and_comes_back_on_its_port_is_found_within_seconds() -> None:
    async def first(heard: list[Any], context: Any) -> Answers:
        yield admitted()
        yield video(0)
        await asyncio.sleep(60)

    async def second(heard: list[Any], context: Any) -> Answers:
        yield admitted()
        yield video(1)
        yield event(pb.EVENT_TYPE_CLOSED)

    config = pb.SessionConfig()
    async with AsyncPort(first) as at, AvatarClient(at.address) as client, client.stream(config) as stream:
        first_frame = await anext(stream)
        assert first_frame.frames[0].index == 0
        await at.die()
        # Long enough for gRPC's own pauses to have grown.
        await asyncio.sleep(4)
        back = asyncio.get_running_loop().time()
        await at.come_back(second)
        assert (await taken_from(stream)).indices == [1]
        assert asyncio.get_running_loop().time() - back < 4
        assert stream.outages[0].attempts > 3


class AsyncPort:
    """One port that servers listen on one after the other."""

    def __init__(self, act: Any) -> None:
        self._act = act

    async def __aenter__(self) -> AsyncPort:
        self._server = listening(Calls(self._act))
        self._port = await self._server.__aenter__()
        self.address = f"127.0.0.1:{self._port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.die()

    async def die(self) -> None:
        await self._server.__aexit__(None, None, None)

    async def come_back(self, act: Any) -> None:
        self._server = listening(Calls(act), self._port)
        await self._server.__aenter__()
