"""A thousand mutated requests over real gRPC: each is answered in the API's own terms, and the service serves throughout."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from liveact.v1 import avatar_pb2 as pb
from liveact_services.client import AvatarStream
from liveact_services.client.wire import write
from liveact_services.errors import REASONS, from_rpc_error
from tenant_fixtures import Serving, Tenants, picture, serving, session

pytest_plugins = ["session_fixtures", "tenant_fixtures"]
pytestmark = pytest.mark.usefixtures("in_process")

SERVICE = pb.DESCRIPTOR.services_by_name["AvatarService"]
UNARY, STREAMS = 700, 300
TEXTS = (
    "",
    "x",
    "\0",
    "\u202e",
    "é" * 5000,
    "sessions/",
    "avatars/../x",
    "sessions/" + "a" * 64,
    "%s%n",
    "{}",
    " " * 99,
)
NUMBERS = (0, 1, -1, 2**31 - 1, -(2**31), 17, 16, 1 << 20)
LARGE = (2**63 - 1, -(2**63), 1 << 40)


def mutated(message: Message, rng: random.Random) -> Message:
    """The message with one to three fields of it, however deep, set to something else or removed."""
    copy = type(message)()
    copy.CopyFrom(message)
    for _ in range(rng.randint(1, 3)):
        holder = rng.choice(list(_messages(copy)))
        if holder.DESCRIPTOR.fields:
            _change(holder, rng.choice(holder.DESCRIPTOR.fields), rng)
    return copy


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None and not field.is_repeated:
            yield from _messages(value)


def _change(message: Any, field: FieldDescriptor, rng: random.Random) -> None:
    if rng.random() < 0.2:
        message.ClearField(field.name)
    elif field.message_type is not None:
        getattr(message, field.name).SetInParent()
    elif field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            before = getattr(message, field.name)
            cut = rng.randrange(len(before) + 1)
            setattr(
                message,
                field.name,
                rng.choice((b"", before[:cut], rng.randbytes(64), before[:cut] + rng.randbytes(99))),
            )
        else:
            setattr(message, field.name, rng.choice(TEXTS))
    else:
        wide = field.cpp_type in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
        value = rng.choice(NUMBERS + LARGE if wide else NUMBERS)
        setattr(message, field.name, abs(value) if field.cpp_type == FieldDescriptor.CPPTYPE_UINT64 else value)


def scrambled(message: Message, rng: random.Random) -> bytes:
    """The message's bytes with some of them changed, lost or added."""
    data = bytearray(message.SerializeToString())
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        data[at : at + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 2))
    return bytes(data)


def reads(kind: type[Message], data: bytes) -> bool:
    try:
        kind.FromString(data)
    except DecodeError:
        return False
    return True


class Raw:
    """Bytes where the client's way to write takes a message."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def SerializeToString(self, **_: Any) -> bytes:
        return self.data


class Fuzzer:
    """Calls as one tenant, in bytes, so that what is no message can be sent too; and counts what came back.

    What is no message never reaches the Gateway: gRPC refuses it with a status of its own.
    """

    def __init__(self, at: Serving, channel: grpc.aio.Channel, key: str) -> None:
        self.channel = channel
        self.metadata = (("authorization", f"Bearer {key}"),)
        self.answers: Counter[str] = Counter()

    async def unary(self, name: str, data: bytes) -> None:
        call = self.channel.unary_unary(f"/{SERVICE.full_name}/{name}")
        try:
            await call(data, metadata=self.metadata, timeout=120)
        except grpc.aio.AioRpcError as error:
            self.judge(error, reads(getattr(pb, SERVICE.methods_by_name[name].input_type.name), data))
        else:
            self.answers["OK"] += 1

    async def stream(self, requests: list[bytes]) -> None:
        """The first request, the others once the session is ready, and after a while without an end, hang up."""
        call = self.channel.stream_stream(f"/{SERVICE.full_name}/StreamAvatar")(metadata=self.metadata, timeout=120)
        ready = asyncio.Event()
        reading = asyncio.create_task(
            self.read(call, ready, all(reads(pb.StreamAvatarRequest, data) for data in requests))
        )
        for n, data in enumerate(requests):
            if n == 1:
                await ready.wait()
            if not await write(call, cast(pb.StreamAvatarRequest, Raw(data))):
                break
        await asyncio.wait({reading}, timeout=1)
        call.cancel()
        await reading

    async def read(self, call: Any, ready: asyncio.Event, readable: bool) -> None:
        try:
            async for data in call:
                answer = pb.StreamAvatarResponse.FromString(data)
                # One that is resumed has been ready before.
                if answer.event.type == pb.EVENT_TYPE_READY or answer.session.state > pb.SESSION_STATE_ADMITTED:
                    ready.set()
            self.answers["OK"] += 1
        except grpc.aio.AioRpcError as error:
            self.judge(error, readable)
        except asyncio.CancelledError:
            self.answers["HUNG_UP"] += 1
        finally:
            ready.set()

    def judge(self, error: grpc.aio.AioRpcError, readable: bool) -> None:
        known = from_rpc_error(error)
        assert "Traceback" not in known.message
        if readable:
            assert known.reason in REASONS, f"{known.code} {known.message}"
            # Not foreseen: an incident.
            assert known.reason != "INTERNAL", known.message
            assert known.code is REASONS[known.reason].code
        self.answers[known.reason or known.code.name] += 1


def unary_requests(mine: pb.Session, avatar: str) -> dict[str, Message]:
    return {
        "CreateAvatar": pb.CreateAvatarRequest(image=picture(), display_name="me"),
        "ListAvatars": pb.ListAvatarsRequest(),
        "DeleteAvatar": pb.DeleteAvatarRequest(name=avatar),
        "GetSession": pb.GetSessionRequest(name=mine.name),
        "ListSessions": pb.ListSessionsRequest(),
        "DeleteSession": pb.DeleteSessionRequest(name=mine.name),
        "GetServerInfo": pb.GetServerInfoRequest(),
    }


def stream_requests(mine: pb.Session, avatar: str, rng: random.Random) -> list[Message]:
    audio = pb.AudioFormat(sample_rate_hz=16000, channels=1, encoding=pb.AUDIO_ENCODING_PCM_S16LE)
    config = rng.choice(
        (
            session(prompt="me", fps=20, seed=7, audio_format=audio, idle_policy=pb.IDLE_POLICY_HOLD),
            session(image=None, avatar=avatar),
            pb.SessionConfig(resume=pb.Resume(token=mine.resume_token, next_frame=0)),
        )
    )
    middle: list[Message] = [
        pb.StreamAvatarRequest(audio=pb.AudioChunk(data=b"\x01\x10" * 800, utterance_id="u", sequence=0)),
        pb.StreamAvatarRequest(end_utterance=pb.EndUtterance(utterance_id="u")),
        pb.StreamAvatarRequest(interrupt=pb.Interrupt()),
        pb.StreamAvatarRequest(update=pb.Update(prompt="x", from_pts_us=1)),
        pb.StreamAvatarRequest(ack=pb.Ack(next_frame=0)),
    ]
    some = rng.sample(middle, rng.randint(0, 3))
    return [pb.StreamAvatarRequest(config=config), *some, pb.StreamAvatarRequest(close=pb.Close())]


async def watch(stream: AvatarStream, frames: list[int]) -> None:
    """The bystander: takes in its frames as they come."""
    async for message in stream:
        if isinstance(message, pb.VideoChunk):
            frames.extend(frame.index for frame in message.frames)


async def test_a_thousand_mutated_requests_are_answered_while_the_service_serves(
    redis_url: str, tenants: Tenants
) -> None:
    rng = random.Random(4)
    keys = {name: tenants.add(name) for name in ("fuzzer", "bystander")}
    limits = {"config_timeout_s": 1, "detached_timeout_s": 1}
    async with (
        serving(redis_url, tenants=str(tenants.write()), sessions=limits) as at,
        at.client(keys["bystander"]) as quiet, at.client(keys["fuzzer"]) as client,
        quiet.stream(session(pacing=pb.PACING_REALTIME)) as stream, client.stream(session()) as mine,
        grpc.aio.insecure_channel(at.address) as channel,
    ):  # fmt: skip
        await asyncio.gather(stream.ready(), mine.ready())
        frames: list[int] = []
        watching = asyncio.create_task(watch(stream, frames))
        fuzzer = Fuzzer(at, channel, keys["fuzzer"])
        avatar = (await client.create_avatar(picture(), "me")).name
        unary = unary_requests(mine.session, avatar)
        for n in range(0, STREAMS, 10):
            batch = []
            for _ in range(10):
                requests = stream_requests(mine.session, avatar, rng)
                at_request = rng.randrange(len(requests))
                changed = mutated(requests[at_request], rng)
                data = [request.SerializeToString() for request in requests]
                data[at_request] = scrambled(changed, rng) if n % 40 == 0 else changed.SerializeToString()
                batch.append(fuzzer.stream(data))
            await asyncio.gather(*batch)
            assert not watching.done()
        for n in range(UNARY):
            name = rng.choice(sorted(unary))
            request = mutated(unary[name], rng)
            await fuzzer.unary(name, scrambled(request, rng) if n % 4 == 0 else request.SerializeToString())
        assert fuzzer.answers.total() == UNARY + STREAMS, fuzzer.answers
        assert fuzzer.answers["OK"] > 100
        assert len(fuzzer.answers) > 15, fuzzer.answers
        # Nobody else noticed: the stream has gone on, and everything still answers.
        before = len(frames)
        async with asyncio.timeout(60):
            while len(frames) < before + 40:
                await asyncio.sleep(0.05)
        assert frames == list(range(len(frames)))
        assert len(await quiet.list_sessions()) == 1
        await quiet.create_avatar(picture(), "still")
        watching.cancel()
