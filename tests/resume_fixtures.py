"""What tests of resuming need: a Gateway whose frames tell what they were made of, and clients that take everything down."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from liveact.v1 import avatar_pb2 as pb
from liveact.v1 import avatar_pb2_grpc as pb_grpc
from liveact_services.client import AvatarClient, AvatarSession, ResumePolicy
from liveact_services.conductor.stages import BlockPlan, EncodedFrame, VideoPart
from liveact_services.errors import ClientError
from stage_fixtures import ScriptedStages

IMPATIENT = ResumePolicy(limit_s=20, first_wait_s=0.01, longest_wait_s=0.2, attempt_s=5)


class TellingStages(ScriptedStages):
    """Every frame is a digest of all sound and prompts up to its block: a piece lost, doubled or moved changes the rest."""

    def __init__(self) -> None:
        super().__init__(0.01, 0.001)
        self._told = hashlib.sha256()
        self._digests: dict[int, bytes] = {}

    def submit(self, plan: BlockPlan) -> AsyncIterator[VideoPart]:
        self._told.update(plan.voice.samples.tobytes() + str(plan.prompt).encode())
        self._digests[plan.block] = self._told.digest()
        return self._telling(plan, super().submit(plan))

    async def _telling(self, plan: BlockPlan, parts: AsyncIterator[VideoPart]) -> AsyncIterator[VideoPart]:
        async for part in parts:
            frames = tuple(
                EncodedFrame(f.index, f.key, self._digests[plan.block] * 8 + f.index.to_bytes(4)) for f in part.frames
            )
            yield dataclasses.replace(part, frames=frames)


@dataclass
class Taken:
    """All that a session yielded."""

    frames: list[pb.VideoFrame] = field(default_factory=list)
    sound: bytearray = field(default_factory=bytearray)
    events: list[pb.Event] = field(default_factory=list)
    reconnections: int = 0

    def take(self, message: Any, rate: int) -> None:
        match message:
            case pb.VideoChunk():
                self.frames.extend(message.frames)
            case pb.AudioSpan():
                assert round(message.pts_us * rate / 1e6) == len(self.sound) // 2, "sound with a hole or a repeat"
                self.sound += message.data
            case pb.Event():
                self.events.append(message)

    @property
    def indices(self) -> list[int]:
        return [frame.index for frame in self.frames]

    @property
    def bytes(self) -> list[bytes]:
        return [frame.data for frame in self.frames]

    def kinds(self) -> list[str]:
        return [pb.EventType.Name(event.type).removeprefix("EVENT_TYPE_") for event in self.events]


Script = Callable[[AvatarSession, Taken], Awaitable[None]]


async def played(
    client: AvatarClient, config: pb.SessionConfig, script: Script, *, resume: ResumePolicy = IMPATIENT
) -> Taken:
    """One session to its end: `script` sends while everything is taken down. Opening it is tried until it is not cut."""
    taken = Taken()
    async with AsyncExitStack() as stack:
        stream = await opened(stack, client, config, resume)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        await stream.ready()
        tasks.create_task(script(stream, taken))
        async for message in stream:
            taken.take(message, stream.session.audio_format.sample_rate_hz)
        taken.reconnections = len(stream.outages)
    return taken


async def opened(
    stack: AsyncExitStack, client: AvatarClient, config: pb.SessionConfig, resume: ResumePolicy
) -> AvatarSession:
    for _ in range(10):
        with suppress(ClientError):
            return await stack.enter_async_context(client.stream(config, resume=resume))
    raise AssertionError("ten connections were cut while a session was being opened")


async def until(condition: Callable[[], bool], timeout: float = 30.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)


def pieces(voice: np.ndarray, sizes: tuple[int, ...] = (6400, 2, 30000, 1234)) -> list[bytes]:
    """PCM16 voice, samples float32 in [-1, 1], in uneven pieces."""
    data = np.clip(np.rint(voice * 32768), -32768, 32767).astype("<i2").tobytes()
    cut, at = [], 0
    while at < len(data):
        size = sizes[len(cut) % len(sizes)]
        cut.append(data[at : at + size])
        at += size
    return cut


# ---- servers by script ---------------------------------------------------------------------------------------------------

Act = Callable[[list[pb.StreamAvatarRequest], Any], AsyncIterator[pb.StreamAvatarResponse]]


class Calls(pb_grpc.AvatarServiceServicer):
    """Each call is answered by the next act; the last act answers all that follow. `heard`: the requests of every call."""

    def __init__(self, *acts: Act) -> None:
        self._acts = acts
        self.heard: list[list[pb.StreamAvatarRequest]] = []

    async def StreamAvatar(self, requests: Any, context: Any) -> AsyncIterator[pb.StreamAvatarResponse]:
        act = self._acts[min(len(self.heard), len(self._acts) - 1)]
        heard = [await anext(requests)]
        self.heard.append(heard)

        async def read() -> None:
            async for request in requests:
                heard.append(request)

        reading = asyncio.create_task(read())
        try:
            async for response in act(heard, context):
                yield response
        finally:
            reading.cancel()

    async def GetSession(self, request: pb.GetSessionRequest, context: Any) -> pb.GetSessionResponse:
        return pb.GetSessionResponse(session=pb.Session(name=request.name, state=pb.SESSION_STATE_CLOSED, frames=5))


def sent(heard: list[pb.StreamAvatarRequest], kind: str) -> list[Any]:
    """What came of that kind."""
    return [getattr(request, kind) for request in heard if request.WhichOneof("payload") == kind]


def admitted(**fields: Any) -> pb.StreamAvatarResponse:
    """A session's introduction."""
    values: dict[str, Any] = {
        "name": "sessions/one", "state": pb.SESSION_STATE_STREAMING, "resume_token": "token", "fps": 20,
        "audio_format": pb.AudioFormat(sample_rate_hz=16000, channels=1),
    }  # fmt: skip
    return pb.StreamAvatarResponse(session=pb.Session(**{**values, **fields}))


def video(*indices: int) -> pb.StreamAvatarResponse:
    """Frames of those numbers, in one message."""
    frames = [pb.VideoFrame(index=i, pts_us=i * 50_000, data=b"%d" % i) for i in indices]
    return pb.StreamAvatarResponse(video=pb.VideoChunk(frames=frames))


def sound(frames: range, next_request: int = 0) -> pb.StreamAvatarResponse:
    """The sound of those frames: every sample's position, as 16 bits."""
    samples = np.arange(frames.start * 800, frames.stop * 800).astype("<u2")
    span = pb.AudioSpan(pts_us=frames.start * 50_000, data=samples.tobytes(), next_request=next_request)
    return pb.StreamAvatarResponse(audio=span)


def event(kind: pb.EventType, pts_us: int = 0, **fields: Any) -> pb.StreamAvatarResponse:
    return pb.StreamAvatarResponse(event=pb.Event(type=kind, pts_us=pts_us, **fields))


@asynccontextmanager
async def listening(servicer: pb_grpc.AvatarServiceServicer, port: int = 0) -> AsyncIterator[int]:
    """A server on that port, or a free one; it dies at once at the end."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    pb_grpc.add_AvatarServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(grace=None)
