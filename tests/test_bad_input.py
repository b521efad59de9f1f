"""Every kind of bad input over a real stream: a clear status with a stable reason, and the service goes on.

`make bad-inputs` prints the table.
"""

from __future__ import annotations

import asyncio
import io
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image
from rich.console import Console
from rich.table import Table

from conftest import Service, pcm16, tone
from liveact.v1 import avatar_pb2 as pb
from liveact.v1 import avatar_pb2_grpc
from liveact_services.client.line import OPTIONS
from liveact_services.errors import REASONS, ClientError, Kind, from_rpc_error

SECOND = pcm16(tone(1.0))
F32 = pb.AudioFormat(encoding=pb.AUDIO_ENCODING_PCM_F32LE)


# ---- pictures ------------------------------------------------------------------------------------------------------------------


def picture(width: int, height: int, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (90, 140, 200)).save(buffer, format=format, **options)
    return buffer.getvalue()


def animated() -> bytes:
    pages = [Image.new("RGB", (64, 64), (i * 60, 0, 0)) for i in range(3)]
    buffer = io.BytesIO()
    pages[0].save(buffer, format="PNG", save_all=True, append_images=pages[1:])
    return buffer.getvalue()


def png_of_claimed_size(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it unpacks to width x height."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


PORTRAIT = picture(128, 128)


# ---- requests ------------------------------------------------------------------------------------------------------------------


def config(**fields: Any) -> pb.StreamAvatarRequest:
    """A good config at the smallest size, but for `fields`; a field that is None is left out."""
    good: dict[str, Any] = {
        "image": PORTRAIT, "width": 32, "height": 32, "codec": pb.VIDEO_CODEC_RGB, "pacing": pb.PACING_FASTEST,
    }  # fmt: skip
    good.update(fields)
    if "avatar" in fields:
        del good["image"]
    return pb.StreamAvatarRequest(config=pb.SessionConfig(**{k: v for k, v in good.items() if v is not None}))


def audio(data: bytes = SECOND, utterance: str = "a", sequence: int = 0) -> pb.StreamAvatarRequest:
    return pb.StreamAvatarRequest(audio=pb.AudioChunk(data=data, utterance_id=utterance, sequence=sequence))


def end(utterance: str = "a") -> pb.StreamAvatarRequest:
    return pb.StreamAvatarRequest(end_utterance=pb.EndUtterance(utterance_id=utterance))


def update(prompt: str = "smiles", at: int = 0) -> pb.StreamAvatarRequest:
    return pb.StreamAvatarRequest(update=pb.Update(prompt=prompt, from_pts_us=at))


def ack(frame: int) -> pb.StreamAvatarRequest:
    return pb.StreamAvatarRequest(ack=pb.Ack(next_frame=frame))


CLOSE = pb.StreamAvatarRequest(close=pb.Close())
EMPTY = pb.StreamAvatarRequest()


def f32(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


@dataclass(frozen=True)
class Case:
    """What is sent, and the reason that comes back. `first` goes out at once, `then` after READY."""

    name: str
    reason: str
    first: list[pb.StreamAvatarRequest] = field(default_factory=lambda: [config()])
    then: list[pb.StreamAvatarRequest] = field(default_factory=list)
    half_close: bool = False


CASES = [
    # The stream's grammar.
    Case("voice before the config", "CONFIG_MISSING", [audio()]),
    Case("an empty message before the config", "CONFIG_MISSING", [EMPTY]),
    Case("a stream that ends before its config", "CONFIG_MISSING", [], half_close=True),
    Case("a stream that never says anything", "CONFIG_TIMEOUT", []),
    Case("a second config", "CONFIG_REPEATED", then=[config()]),
    Case("an empty message", "PAYLOAD_MISSING", then=[EMPTY]),
    Case("voice before READY", "NOT_READY", [config(prompt="in a hurry"), audio()]),
    Case("a prompt update before READY", "NOT_READY", [config(prompt="in more hurry"), update()]),
    Case("a stream that ends without close", "STREAM_NOT_CLOSED", then=[audio()], half_close=True),
    # Portraits.
    Case("a consent reference of 257 characters", "CONSENT_INVALID", [config(consent="r" * 257)]),
    Case("a consent reference of two lines", "CONSENT_INVALID", [config(consent="one\ntwo")]),
    Case("no portrait", "PORTRAIT_MISSING", [config(image=None)]),
    Case("an avatar that is not there", "AVATAR_NOT_FOUND", [config(avatar="avatars/0123456789abcdef")]),
    Case("an avatar name of another form", "AVATAR_NAME_INVALID", [config(avatar="me")]),
    Case("an empty image", "IMAGE_EMPTY", [config(image=b"")]),
    Case("an image of 20 MB", "IMAGE_TOO_LARGE", [config(image=PORTRAIT + bytes(20_000_000))]),
    Case("a truncated PNG", "IMAGE_TRUNCATED", [config(image=picture(256, 256)[:200])]),
    Case("a truncated JPEG", "IMAGE_TRUNCATED", [config(image=picture(256, 256, "JPEG")[:400])]),
    Case("a GIF", "IMAGE_FORMAT_UNSUPPORTED", [config(image=picture(64, 64, "GIF"))]),
    Case("a BMP", "IMAGE_FORMAT_UNSUPPORTED", [config(image=picture(64, 64, "BMP"))]),
    Case("an animated PNG", "IMAGE_ANIMATED", [config(image=animated())]),
    Case("text for an image", "IMAGE_FORMAT_UNSUPPORTED", [config(image=b"a portrait of a lady" * 10)]),
    Case("a decompression bomb", "IMAGE_TOO_MANY_PIXELS", [config(image=png_of_claimed_size(15_000, 15_000))]),
    Case("an image of 20000x20000", "IMAGE_TOO_MANY_PIXELS", [config(image=png_of_claimed_size(20_000, 20_000))]),
    Case("an image of 1x1", "IMAGE_TOO_SMALL", [config(image=picture(1, 1))]),
    # What is asked for.
    Case("a width not a multiple of 16", "SIZE_UNSUPPORTED", [config(width=40)]),
    Case("a size too large for the preset", "SIZE_UNSUPPORTED", [config(width=1024, height=1024)]),
    Case("a size too small for the preset", "SIZE_UNSUPPORTED", [config(width=16, height=16)]),
    Case("a negative size", "SIZE_UNSUPPORTED", [config(width=-32, height=-32)]),
    Case("a width without a height", "SIZE_UNSUPPORTED", [config(width=64, height=None)]),
    Case("5 frames a second", "FPS_UNSUPPORTED", [config(fps=5)]),
    Case("1000 frames a second", "FPS_UNSUPPORTED", [config(fps=1000)]),
    Case("an unknown codec", "CODEC_UNSUPPORTED", [config(codec=99)]),
    Case("an unknown pacing", "PACING_UNSUPPORTED", [config(pacing=99)]),
    Case("an unknown idle policy", "IDLE_POLICY_UNSUPPORTED", [config(idle_policy=99)]),
    Case("an unknown sample rate", "AUDIO_RATE_UNSUPPORTED", [config(audio_format=pb.AudioFormat(sample_rate_hz=12345))]),
    Case("five channels", "AUDIO_CHANNELS_UNSUPPORTED", [config(audio_format=pb.AudioFormat(channels=5))]),
    Case("an unknown sample width", "AUDIO_ENCODING_UNSUPPORTED", [config(audio_format=pb.AudioFormat(encoding=77))]),
    Case("a prompt of 100 kB", "PROMPT_TOO_LONG", [config(prompt="x" * 100_000)]),
    Case("a prompt of control characters", "PROMPT_NOT_TEXT", [config(prompt="smile\x00\x07")]),
    # Voice.
    Case("an odd number of bytes", "AUDIO_ODD_BYTES", then=[audio(SECOND[:999])]),
    Case("no bytes", "AUDIO_EMPTY", then=[audio(b"")]),
    Case("NaN", "AUDIO_NOT_FINITE", [config(audio_format=F32)], [audio(f32(0.1, float("nan")))]),
    Case("infinity", "AUDIO_NOT_FINITE", [config(audio_format=F32)], [audio(f32(float("inf"), 0.1))]),
    Case("float samples far beyond 1", "AUDIO_OUT_OF_RANGE", [config(audio_format=F32)], [audio(f32(0.1, -32768.0))]),
    Case("an hour of sound in one message", "AUDIO_TOO_LONG", then=[audio(SECOND[:32] * 3_600_000)]),
    Case("more voice than may wait", "VOICE_BACKLOG_FULL", then=[audio(SECOND * 30, "a", n) for n in range(4)]),
    Case("no utterance id", "UTTERANCE_ID_INVALID", then=[audio(utterance="")]),
    Case("an utterance id of 65 characters", "UTTERANCE_ID_INVALID", then=[audio(utterance="u" * 65)]),
    Case("a gap in the sequence", "SEQUENCE_GAP", then=[audio(sequence=0), audio(sequence=2)]),
    Case("a repeat in the sequence", "SEQUENCE_REPEATED", then=[audio(sequence=0), audio(sequence=0)]),
    Case("a negative sequence number", "SEQUENCE_REPEATED", then=[audio(sequence=-1)]),
    Case("two utterances interleaved", "UTTERANCE_INTERLEAVED", then=[audio(), audio(utterance="b", sequence=1)]),
    Case("an utterance that ends twice", "UTTERANCE_ENDED", then=[audio(), end(), end()]),
    Case("voice after the utterance's end", "UTTERANCE_ENDED", then=[audio(), end(), audio(sequence=1)]),
    Case("an utterance of no length", "UTTERANCE_EMPTY", then=[end(), CLOSE]),
    Case("clipped voice", "AUDIO_CLIPPED", then=[audio(pcm16(tone(1.0, level=4.0))), CLOSE]),
    # Control.
    Case("a negative media time", "MEDIA_TIME_NEGATIVE", then=[update(at=-1)]),
    Case("a new prompt of 100 kB", "PROMPT_TOO_LONG", then=[update("x" * 100_000)]),
    Case("an ack beyond what was sent", "ACK_BEYOND_SENT", then=[ack(1000)]),
    Case("an ack of a negative frame", "ACK_BACKWARDS", then=[ack(-1)]),
    Case("a client that never acknowledges", "ACK_TIMEOUT", then=[audio(SECOND * 15)]),
    # Resuming.
    Case("a malformed resume token", "RESUME_TOKEN_INVALID", [config(resume=pb.Resume(token="let me in"))]),
    Case("a wrong resume token", "RESUME_TOKEN_INVALID", [config(resume=pb.Resume(token="0123456789abcdef." + "x" * 43))]),
]  # fmt: skip


class Peer:
    """A client that checks nothing."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        self.stub = avatar_pb2_grpc.AvatarServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    async def outcome(self, case: Case) -> tuple[grpc.StatusCode, ClientError | None, list[pb.Event]]:
        """How the stream ended, and the events on the way."""
        call = self.stub.StreamAvatar()
        events: list[pb.Event] = []
        try:
            await self._send(call, case.first, case.half_close and not case.first)
            async for response in call:
                if response.WhichOneof("payload") != "event":
                    continue
                events.append(response.event)
                if response.event.type == pb.EVENT_TYPE_READY:
                    await self._send(call, case.then, case.half_close)
        except grpc.aio.AioRpcError as error:
            return error.code(), from_rpc_error(error), events
        finally:
            call.cancel()
        return grpc.StatusCode.OK, None, events

    @staticmethod
    async def _send(call: Any, messages: list[pb.StreamAvatarRequest], half_close: bool) -> None:
        for message in messages:
            try:
                await call.write(message)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return  # The server has ended the stream; reading tells why.
        if half_close:
            await call.done_writing()

    async def serving(self) -> bool:
        answer = await self.health.Check(health_pb2.HealthCheckRequest())
        return answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.fixture(scope="module")
async def peer(service: Service) -> AsyncIterator[Peer]:
    peer = Peer(service.address)
    yield peer
    await peer.channel.close()


@pytest.fixture(scope="module")
def report() -> Any:
    table = Table("bad input", "status", "reason", "what the client is told", title="bad inputs")
    yield table
    Console(width=160).print(table)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_bad_input_gets_its_reason_and_the_service_goes_on(peer: Peer, report: Table, case: Case) -> None:
    code, error, events = await asyncio.wait_for(peer.outcome(case), 30)
    if REASONS[case.reason].kind is Kind.NOTICE:
        told = {event.reason: event.message for event in events if event.type == pb.EVENT_TYPE_NOTICE}
        assert error is None, error
        assert case.reason in told
        report.add_row(case.name, code.name, case.reason, told[case.reason])
    else:
        assert error is not None, f"the stream ended well, with {[pb.EventType.Name(e.type) for e in events]}"
        assert (error.code, error.reason) == (REASONS[case.reason].code, case.reason), error.message
        assert "Traceback" not in error.message
        assert len(error.message) > 10
        report.add_row(case.name, code.name, error.reason, error.message)
    assert await peer.serving()


UNARY: list[tuple[str, str, Callable[[Any], Awaitable[Any]]]] = [
    ("a session that is not there", "SESSION_NOT_FOUND",
     lambda stub: stub.GetSession(pb.GetSessionRequest(name="sessions/0123456789abcdef"))),
    ("a session name of another form", "SESSION_NAME_INVALID", lambda stub: stub.GetSession(pb.GetSessionRequest(name="x"))),
    ("deleting a session that is not there", "SESSION_NOT_FOUND",
     lambda stub: stub.DeleteSession(pb.DeleteSessionRequest(name="sessions/0123456789abcdef"))),
    ("deleting an avatar that is not there", "AVATAR_NOT_FOUND",
     lambda stub: stub.DeleteAvatar(pb.DeleteAvatarRequest(name="avatars/0123456789abcdef"))),
    ("an avatar of an empty image", "IMAGE_EMPTY", lambda stub: stub.CreateAvatar(pb.CreateAvatarRequest())),
    ("an avatar of a GIF", "IMAGE_FORMAT_UNSUPPORTED",
     lambda stub: stub.CreateAvatar(pb.CreateAvatarRequest(image=picture(64, 64, "GIF")))),
    ("an avatar with a consent reference of 257 characters", "CONSENT_INVALID",
     lambda stub: stub.CreateAvatar(pb.CreateAvatarRequest(image=PORTRAIT, consent="r" * 257))),
    ("a display name of 129 characters", "DISPLAY_NAME_TOO_LONG",
     lambda stub: stub.CreateAvatar(pb.CreateAvatarRequest(image=PORTRAIT, display_name="n" * 129))),
]  # fmt: skip


@pytest.mark.parametrize(("name", "reason", "call"), UNARY, ids=[name for name, _, _ in UNARY])
async def test_bad_unary_call_gets_its_reason(peer: Peer, report: Table, name: str, reason: str, call: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(peer.stub)
    error = from_rpc_error(raised.value)
    assert (error.code, error.reason) == (REASONS[reason].code, reason)
    report.add_row(name, error.code.name, error.reason, error.message)


async def test_streams_that_need_two_attempts(peer: Peer, report: Table) -> None:
    """Acks that go back, resume tokens that are used up, frames that are gone, sessions that are closed or expired."""

    async def first_frames(then: list[pb.StreamAvatarRequest]) -> tuple[Any, pb.Session, int]:
        call = peer.stub.StreamAvatar()
        await call.write(config())
        session, frames = pb.Session(), 0
        async for response in call:
            match response.WhichOneof("payload"):
                case "session":
                    session = response.session
                case "event" if response.event.type == pb.EVENT_TYPE_READY:
                    for message in then:
                        await call.write(message)
                case "video":
                    frames = response.video.frames[-1].index + 1
                    if frames >= 21:
                        return call, session, frames
        raise AssertionError("the stream ended before its first block")

    async def resumed(token: str, frame: int) -> ClientError | None:
        case = Case("", "", [config(resume=pb.Resume(token=token, next_frame=frame))])
        return (await peer.outcome(case))[1]

    call, session, frames = await first_frames([audio(SECOND * 3)])
    await call.write(ack(frames))
    await call.write(ack(frames - 5))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async for _ in call:
            pass
    assert from_rpc_error(raised.value).reason == "ACK_BACKWARDS"
    await asyncio.sleep(0.3)
    ended = await resumed(session.resume_token, frames)
    assert ended is not None
    assert ended.reason == "SESSION_ENDED"

    call, session, frames = await first_frames([audio(SECOND * 3)])
    call.cancel()
    await asyncio.sleep(0.5)
    record = (await peer.stub.GetSession(pb.GetSessionRequest(name=session.name))).session
    unavailable = await resumed(session.resume_token, 5000)
    assert record.state == pb.SESSION_STATE_DETACHED
    assert unavailable is not None
    assert unavailable.reason == "RESUME_FRAME_UNAVAILABLE"
    await asyncio.sleep(4.5)
    record = (await peer.stub.GetSession(pb.GetSessionRequest(name=session.name))).session
    expired = await resumed(session.resume_token, frames)
    assert record.state == pb.SESSION_STATE_EXPIRED
    assert expired is not None
    assert expired.reason == "RESUME_TOKEN_EXPIRED"
    for name, error in (
        ("resuming a session that failed", ended),
        ("resuming at a frame never sent", unavailable),
        ("resuming an abandoned session too late", expired),
    ):
        report.add_row(name, error.code.name, error.reason, error.message)


async def test_a_client_that_never_reads_is_cut_off_and_costs_nobody_else(peer: Peer, report: Table) -> None:
    async def newest() -> pb.Session:
        return (await peer.stub.ListSessions(pb.ListSessionsRequest())).sessions[0]

    async def until(state: int, seconds: float) -> None:
        async with asyncio.timeout(seconds):
            while (await newest()).state != state:
                await asyncio.sleep(0.1)

    call = peer.stub.StreamAvatar()
    await call.write(config(width=128, height=128))
    await asyncio.sleep(0.5)
    await until(pb.SESSION_STATE_READY, 10)
    for number in range(15):
        await call.write(audio(sequence=number))
    await until(pb.SESSION_STATE_FAILED, 30)
    report.add_row("a client that never reads", "-", "ACK_TIMEOUT", "nobody reads it; the session's record is FAILED")
    code, error, _ = await peer.outcome(Case("", "", then=[audio(), end(), CLOSE]))
    assert code is grpc.StatusCode.OK, error
    call.cancel()


async def test_after_all_of_it_a_good_stream_is_served(peer: Peer) -> None:
    code, error, events = await peer.outcome(Case("", "", then=[audio(), end(), CLOSE]))
    assert code is grpc.StatusCode.OK, error
    assert events[-1].type == pb.EVENT_TYPE_CLOSED


def test_there_are_at_least_forty_cases() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 40
