"""The client of the public API over grpc.aio: unary calls, and a stream that keeps sequence numbers and credit."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeAlias, TypeVar

import grpc

from liveact.v1 import avatar_pb2 as pb2
from liveact.v1 import avatar_pb2_grpc as pb2_grpc
from liveact_services.client.wire import write
from liveact_services.errors import ClientError, from_rpc_error

MAX_PIECE_BYTES = 960_000
"""Longest voice piece sent; under the API's 1 MiB and whole samples in every format (a multiple of 2, 4, 6 and 8)."""

TOKEN_VARIABLE = "LIVEACT_TOKEN"

# No keepalive: the proxy answers client pings on an idle stream with GOAWAY.
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (("grpc.max_receive_message_length", 16 * 1024 * 1024),)

Answer = TypeVar("Answer")
Payload: TypeAlias = pb2.VideoChunk | pb2.AudioSpan | pb2.Event


class AvatarClient:
    """One channel to a service. Use it as an async context manager.

    `target` is "host:port"; `credentials` turn TLS on; `metadata` goes with every call. `token`, an API key or JWT, says who
    calls; without one, and without credentials in `metadata`, it is the environment's LIVEACT_TOKEN, if there is one.
    """

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        token: str | None = None,
    ) -> None:
        self.target = target
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(target, credentials, options=CHANNEL_OPTIONS)
        self._stub = pb2_grpc.AvatarServiceStub(self._channel)
        self._metadata = (*metadata, *_authorization(token, metadata))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel; open streams end and their sessions wait to be resumed."""
        await self._channel.close()

    def stream(self, config: pb2.SessionConfig, *, auto_ack: bool = True) -> AvatarStream:
        """A new session; enter it to open it."""
        return AvatarStream(self._stub.StreamAvatar(metadata=self._metadata), config, auto_ack=auto_ack)

    def resume(self, token: str, next_frame: int, *, auto_ack: bool = True) -> AvatarStream:
        """Go on with a session: `token` is its `resume_token`, `next_frame` the first frame still wanted.

        Voice goes on with piece `AvatarStream.next_sequence` of the new stream: pieces sent from there on before did not
        arrive.
        """
        config = pb2.SessionConfig(resume=pb2.Resume(token=token, next_frame=next_frame))
        call = self._stub.StreamAvatar(metadata=self._metadata)
        return AvatarStream(call, config, auto_ack=auto_ack)

    async def create_avatar(self, image: bytes, display_name: str = "") -> pb2.Avatar:
        """Prepare a portrait (PNG, JPEG or WebP) once, to be named in later configs. Raises `ClientError`."""
        request = pb2.CreateAvatarRequest(image=image, display_name=display_name)
        return (await self._call(self._stub.CreateAvatar, request)).avatar

    async def list_avatars(self) -> list[pb2.Avatar]:
        """The caller's avatars, newest first. Raises `ClientError`."""
        return list((await self._call(self._stub.ListAvatars, pb2.ListAvatarsRequest())).avatars)

    async def delete_avatar(self, name: str) -> None:
        """Forget "avatars/{id}". Raises `ClientError`."""
        await self._call(self._stub.DeleteAvatar, pb2.DeleteAvatarRequest(name=name))

    async def get_session(self, name: str) -> pb2.Session:
        """The record of "sessions/{id}". Raises `ClientError`."""
        return (await self._call(self._stub.GetSession, pb2.GetSessionRequest(name=name))).session

    async def list_sessions(self) -> list[pb2.Session]:
        """The caller's sessions, newest first. Raises `ClientError`."""
        return list((await self._call(self._stub.ListSessions, pb2.ListSessionsRequest())).sessions)

    async def delete_session(self, name: str) -> None:
        """Close "sessions/{id}", streaming or detached. Raises `ClientError`."""
        await self._call(self._stub.DeleteSession, pb2.DeleteSessionRequest(name=name))

    async def server_info(self) -> pb2.GetServerInfoResponse:
        """What the server runs and accepts. Raises `ClientError`."""
        return await self._call(self._stub.GetServerInfo, pb2.GetServerInfoRequest())

    async def _call(self, method: Callable[..., Awaitable[Answer]], request: object) -> Answer:
        try:
            return await method(request, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error


def _authorization(token: str | None, metadata: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    if token is None and not any(name in ("authorization", "x-api-key") for name, _ in metadata):
        token = os.environ.get(TOKEN_VARIABLE, "")
    # A file's or secret's last newline is no part of a token, and gRPC would quote the whole of it in its complaint.
    token = (token or "").strip()
    return (("authorization", f"Bearer {token}"),) if token else ()


class AvatarStream:
    """One stream of a session: sends voice and control, and iterates over what the server answers.

    Entering it sends the config and returns once the server has admitted the session; leaving it hangs up, which
    detaches a session that was not closed. Iteration yields `VideoChunk`, `AudioSpan` and `Event` until the server ends
    the stream, and raises `ClientError` when it ended with an error. With `auto_ack`, asking for the next message
    acknowledges the frames of the one before. One task may iterate while another sends.
    """

    def __init__(self, call: grpc.aio.StreamStreamCall, config: pb2.SessionConfig, *, auto_ack: bool) -> None:
        self.next_sequence = 0
        """Number of the next voice piece."""
        self.arrived_at = 0.0
        """When the message yielded last came off the wire, in seconds of `time.perf_counter`."""
        self._call = call
        self._config = config
        self._auto_ack = auto_ack
        self._session: pb2.Session | None = None
        self._received: asyncio.Queue[tuple[Payload, float] | None] = asyncio.Queue()
        self._admitted, self._ready = asyncio.Event(), asyncio.Event()
        self._seen_ready = False
        self._failure: ClientError | None = None
        self._writing = asyncio.Lock()
        self._consumed = self._acknowledged = 0
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        # Reading starts first: a server that refuses at once is heard even when the config cannot be written any more.
        self._reader = asyncio.create_task(self._read())
        try:
            with suppress(ClientError):
                await self._send(config=self._config)
            await self._admitted.wait()
            if self._session is None:
                raise self._ended("the server ended the stream before it admitted the session")
        except BaseException:
            await self._hang_up()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._hang_up()

    @property
    def session(self) -> pb2.Session:
        """What was agreed; its `resume_token` is the key to `AvatarClient.resume`."""
        if self._session is None:
            raise RuntimeError("the stream is not open: enter it with `async with`")
        return self._session

    async def ready(self) -> None:
        """Wait until voice counts. Raises `ClientError` when the stream ends before that."""
        await self._ready.wait()
        if not self._seen_ready:
            raise self._ended("the server ended the stream before READY")

    async def send_audio(self, data: bytes, utterance_id: str) -> None:
        """Send voice in the session's `audio_format`, in pieces under 1 MiB. Raises `ClientError`."""
        for offset in range(0, len(data), MAX_PIECE_BYTES):
            piece = data[offset : offset + MAX_PIECE_BYTES]
            chunk = pb2.AudioChunk(data=piece, utterance_id=utterance_id, sequence=self.next_sequence)
            self.next_sequence += 1
            await self._send(audio=chunk)

    async def end_utterance(self, utterance_id: str) -> None:
        """No more voice in this utterance."""
        await self._send(end_utterance=pb2.EndUtterance(utterance_id=utterance_id))

    async def interrupt(self) -> None:
        """Stop speaking at the next block; an INTERRUPTED event tells what was dropped."""
        await self._send(interrupt=pb2.Interrupt())

    async def update(self, prompt: str, from_pts_us: int = 0) -> None:
        """Another prompt from the first block at or after this media time, in microseconds; 0 is the next block."""
        await self._send(update=pb2.Update(prompt=prompt, from_pts_us=from_pts_us))

    async def ack(self, next_frame: int) -> None:
        """Every frame before `next_frame` was shown: the server may go on."""
        await self._send(ack=pb2.Ack(next_frame=next_frame))
        self._acknowledged = max(self._acknowledged, next_frame)

    async def close(self) -> None:
        """Ask the server to finish what was sent and end the session; go on iterating until it has."""
        await self._send(close=pb2.Close())

    def __aiter__(self) -> AsyncIterator[Payload]:
        return self

    async def __anext__(self) -> Payload:
        if self._auto_ack and self._consumed > self._acknowledged:
            # A stream that broke meanwhile says why when it is read, below.
            with suppress(ClientError):
                await self.ack(self._consumed)
        received = await self._received.get()
        if received is None:
            self._received.put_nowait(None)
            if self._failure is not None:
                raise self._failure
            raise StopAsyncIteration
        payload, self.arrived_at = received
        if isinstance(payload, pb2.VideoChunk) and payload.frames:
            self._consumed = payload.frames[-1].index + 1
        return payload

    async def _read(self) -> None:
        # The server's credit bounds what can wait here.
        try:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                self._receive(response)
        except grpc.aio.AioRpcError as error:
            self._failure = from_rpc_error(error)
        finally:
            self._received.put_nowait(None)
            self._admitted.set()
            self._ready.set()

    def _receive(self, response: pb2.StreamAvatarResponse) -> None:
        kind = response.WhichOneof("payload")
        if kind is None:
            return  # from a newer server
        payload = getattr(response, kind)
        if kind == "session":
            self._session = payload
            self.next_sequence = payload.next_sequence
            self._admitted.set()
            # A session that is resumed may have become ready on the stream before.
            if payload.state not in (pb2.SESSION_STATE_UNSPECIFIED, pb2.SESSION_STATE_ADMITTED):
                self._became_ready()
            return
        if kind == "event" and payload.type == pb2.EVENT_TYPE_READY:
            self._became_ready()
        self._received.put_nowait((payload, time.perf_counter()))

    def _became_ready(self) -> None:
        self._seen_ready = True
        self._ready.set()

    async def _send(self, **payload: object) -> None:
        assert self._reader is not None
        request = pb2.StreamAvatarRequest(**payload)  # type: ignore[arg-type]
        async with self._writing:
            try:
                sent = await write(self._call, request)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from error
        if not sent:
            # The server has ended the stream; how, stands behind what it sent before.
            await asyncio.wait({self._reader})
            raise self._ended("the server has ended the stream: nothing more can be sent on it")

    def _ended(self, message: str) -> ClientError:
        return self._failure or ClientError(grpc.StatusCode.CANCELLED, message)

    async def _hang_up(self) -> None:
        self._call.cancel()
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader
