"""One call of the stream: what is sent on it, and what the server answers until it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

import grpc

from liveact.v1 import avatar_pb2 as pb2
from liveact_services.client.conversation import Conversation, Payload
from liveact_services.client.wire import write
from liveact_services.errors import ClientError, from_rpc_error


class AvatarStream(Conversation):
    """One call of a session: sends voice and control, and iterates over what the server answers.

    Entering it sends the config and returns once the server has admitted the session, or raises `DeadlineExceeded` after
    `admission_s`; leaving it hangs up, which detaches a session that was not closed. Iteration ends when the server ends the
    call, and raises `ClientError` when it ended with an error or the connection broke. With `auto_ack`, asking for the next
    message acknowledges the frames of the one before. `AvatarSession` goes on where a call breaks off; this is the call.
    """

    def __init__(
        self,
        call: grpc.aio.StreamStreamCall,
        config: pb2.SessionConfig,
        *,
        auto_ack: bool,
        admission_s: float | None = None,
        leave: Callable[[], None] = lambda: None,
    ) -> None:
        """`leave`: called when the server is to be left, so that other calls do not go to it."""
        super().__init__()
        self._leave = leave
        self._admission_s = admission_s
        self._call = call
        self._config = config
        self._auto_ack = auto_ack
        self._session: pb2.Session | None = None
        self._received: asyncio.Queue[tuple[Payload, float] | None] = asyncio.Queue()
        self._admitted, self._ready = asyncio.Event(), asyncio.Event()
        self.is_ready = False
        """Whether voice counts."""
        self._failure: ClientError | None = None
        self._writing = asyncio.Lock()
        self._consumed = self._acknowledged = 0
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        # Reading starts first: a server that refuses at once is heard even when the config cannot be written any more.
        self._reader = asyncio.create_task(self._read())
        try:
            try:
                async with asyncio.timeout(self._admission_s):
                    with suppress(ClientError):
                        await self.send(pb2.StreamAvatarRequest(config=self._config))
                    await self._admitted.wait()
            except TimeoutError:
                raise ClientError(
                    grpc.StatusCode.DEADLINE_EXCEEDED, f"the session was not admitted within {self._admission_s:.0f} s"
                ) from None
            if self._session is None:
                raise self._ended("the server ended the stream before it admitted the session")
        except BaseException:
            await self.hang_up()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.hang_up()

    @property
    def session(self) -> pb2.Session:
        """What was agreed; its `resume_token` is the key to `AvatarClient.resume`."""
        if self._session is None:
            raise RuntimeError("the stream is not open: enter it with `async with`")
        return self._session

    async def ready(self) -> None:
        """Wait until voice counts. Raises `ClientError` when the stream ends before that."""
        await self._ready.wait()
        if not self.is_ready:
            raise self._ended("the server ended the stream before READY")

    async def send(self, request: pb2.StreamAvatarRequest) -> None:
        """One request as it is. Raises `ClientError` when the stream has ended."""
        assert self._reader is not None
        async with self._writing:
            try:
                sent = await write(self._call, request)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from error
        if not sent:
            # The server has ended the stream; how, stands behind what it sent before.
            await asyncio.wait({self._reader})
            raise self._ended("the server has ended the stream: nothing more can be sent on it")

    async def ack(self, next_frame: int) -> None:
        await super().ack(next_frame)
        self._acknowledged = max(self._acknowledged, next_frame)

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
        self._took(payload)
        return payload

    async def hang_up(self) -> None:
        """End the call here."""
        self._call.cancel()
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader

    async def _read(self) -> None:
        # The server's credit bounds what can wait here.
        try:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                self._receive(response)
        except grpc.aio.AioRpcError as error:
            self._failure = from_rpc_error(error)
            if self._failure.reason == "SHUTTING_DOWN":
                self._leave()
        finally:
            self._received.put_nowait(None)
            self._finish()
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
        elif kind == "event" and payload.type == pb2.EVENT_TYPE_GOING_AWAY:
            self._leave()
        self._received.put_nowait((payload, time.perf_counter()))

    def _became_ready(self) -> None:
        self.is_ready = True
        self._ready.set()

    def _ended(self, message: str) -> ClientError:
        return self._failure or ClientError(grpc.StatusCode.CANCELLED, message)
