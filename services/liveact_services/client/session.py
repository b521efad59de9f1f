"""A session as its client sees it: one conversation, over as many calls as it takes."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

import grpc

from liveact.v1 import avatar_pb2 as pb2
from liveact_services.client.conversation import Conversation, Payload
from liveact_services.client.progress import Acks, Progress
from liveact_services.client.request_log import ACTING, RequestLog
from liveact_services.client.resuming import Outage, ResumeFailed, ResumePolicy, is_final
from liveact_services.client.stream import AvatarStream
from liveact_services.errors import REASONS, ClientError

STEADY_S = 10.0
"""A call that lasted so long was a good one, even if nothing came: the next break is a new one."""
RECORD_TRIES = 5
RECORD_WAIT_S = 0.2
"""An ended session's record is written within a second."""


class AvatarSession(Conversation):
    """A session that outlives its calls: when one breaks, another resumes it, and iteration goes on with the next frame.

    Every frame, every stretch of sound and every event is yielded once. What was sent while there was no connection, or was
    lost with it, is sent when there is one again; senders wait once `ResumePolicy.queue_bytes` wait. A sender that is
    cancelled has sent what it handed over. With `auto_ack`, asking for the next message acknowledges the frames of the one
    before.

    Entering it opens the session, without another attempt; leaving it hangs up, which detaches a session that was not
    closed. Iteration raises `ClientError` when the session has ended with an error, `ResumeFailed` when nobody let it go on
    in time, and `RequestsForgotten` when the server asks for more than was kept.
    """

    def __init__(
        self,
        config: pb2.SessionConfig,
        *,
        open_call: Callable[[pb2.SessionConfig, bool], AvatarStream],
        find: Callable[[str], Awaitable[pb2.Session]],
        auto_ack: bool,
        policy: ResumePolicy,
        on_resume: Callable[[Outage], None] | None,
    ) -> None:
        super().__init__()
        self.outages: list[Outage] = []
        """Every time the connection was lost and the session went on, in order."""
        self._open, self._find, self._on_resume = open_call, find, on_resume
        self._config, self._auto_ack, self._policy = config, auto_ack, policy
        self._session: pb2.Session | None = None
        self._call: AvatarStream | None = None
        """The call that is there now; None in an outage and at the end."""
        self._running: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        # What goes out.
        self._log = RequestLog(policy.keep_bytes)
        self._acks = Acks()
        self._close_at: int | None = None
        """`close` follows the requests before this number."""
        self._close_sent = False
        """On the present call."""
        # What comes in.
        self._progress = Progress()
        self._received: asyncio.Queue[tuple[Payload, float] | None] = asyncio.Queue()
        self._yielded = 0
        """Frames that were yielded."""
        self._ready = self._closed = self._over = False
        self._failure: Exception | None = None
        self._last_words: pb2.Event | None = None
        """A FAILED event, until it is known that the session has failed and not only the call."""
        # What is between two calls.
        self._broken_at: float | None = None
        """Since when nothing new has come because calls break."""
        self._attempts = 0
        self._waits = policy.waits(random.Random())

    async def __aenter__(self) -> Self:
        call = await self._open(self._config, False).__aenter__()
        self._session = call.session
        self._progress.rate = call.session.audio_format.sample_rate_hz or self._progress.rate
        self._call, self._ready = call, call.is_ready
        self._running = asyncio.create_task(self._run(call))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._running is not None
        self._running.cancel()
        await asyncio.wait({self._running})

    @property
    def session(self) -> pb2.Session:
        """What was agreed at the start."""
        if self._session is None:
            raise RuntimeError("the session is not open: enter it with `async with`")
        return self._session

    @property
    def connected(self) -> bool:
        """Whether there is a call now."""
        return self._call is not None

    @property
    def last_stall_s(self) -> float:
        """How long the connection was away the last time, in seconds; 0 if it never was."""
        return self.outages[-1].seconds if self.outages else 0.0

    async def ready(self) -> None:
        await self._until(lambda: self._ready)
        if not self._ready:
            raise self._failure or ClientError(grpc.StatusCode.CANCELLED, "the session ended before READY")

    # ---- what the client says ----------------------------------------------------------------------------------------------

    async def send(self, request: pb2.StreamAvatarRequest) -> None:
        """Hand one request to the session, and wait until it is written or, in an outage, few enough wait.

        Raises `ClientError` when the session has ended.
        """
        self._raise_if_over()
        match request.WhichOneof("payload"):
            case "ack":
                self._acks.shown(request.ack.next_frame)
                self._wake()
            case "close":
                self._close_at = self._log.end
                self._wake()
                await self._until(lambda: self._close_sent or self._call is None)
            case kind if kind in ACTING:
                number = self._log.append(request)
                self._wake()
                await self._until(lambda: self._log.sent > number or self._may_wait)
                if self._log.sent <= number:
                    self._raise_if_over()
            case kind:
                raise ValueError(f"{kind or 'an empty request'}: a session sends {', '.join(ACTING)}, ack and close")

    @property
    def _may_wait(self) -> bool:
        return self._call is None and self._log.unsent_bytes <= self._policy.queue_bytes

    def _raise_if_over(self) -> None:
        if self._over:
            raise self._failure or ClientError(
                grpc.StatusCode.CANCELLED, "the session has ended: nothing more can be sent"
            )

    async def _write(self, call: AvatarStream) -> None:
        """Send what there is to send, as it comes, until the call breaks; why, its reader knows."""
        with suppress(ClientError):
            if self.outages:
                # It may have been lost before it was ready.
                await call.ready()
            while True:
                if (shown := self._acks.due()) is not None:
                    await call.ack(shown)
                    self._acks.sent(shown)
                elif self._close_at is not None and not self._close_sent and self._log.sent >= self._close_at:
                    await call.close()
                    self._close_sent = True
                elif (request := self._log.next()) is not None:
                    await call.send(request)
                    self._log.advance()
                else:
                    await self._change()
                    continue
                self._wake()

    # ---- what the client hears ---------------------------------------------------------------------------------------------

    async def __anext__(self) -> Payload:
        if self._auto_ack:
            self._acks.shown(self._yielded)
        self._acks.hungry = self._received.empty()
        self._wake()
        received = await self._received.get()
        self._acks.hungry = False
        if received is None:
            self._received.put_nowait(None)
            if self._failure is not None:
                raise self._failure
            raise StopAsyncIteration
        payload, self.arrived_at = received
        if isinstance(payload, pb2.VideoChunk):
            self._yielded = payload.frames[-1].index + 1
        self._took(payload)
        return payload

    def _take(self, payload: Payload, arrived_at: float) -> None:
        if isinstance(payload, pb2.Event) and payload.type == pb2.EVENT_TYPE_FAILED:
            self._last_words = payload
            return
        if isinstance(payload, pb2.AudioSpan):
            self._log.forget(payload.next_request)
        fresh = self._progress.fresh(payload)
        if fresh is None:
            return
        self._broken_at = None
        if isinstance(fresh, pb2.Event):
            self._closed = self._closed or fresh.type == pb2.EVENT_TYPE_CLOSED
            self._ready = self._ready or fresh.type == pb2.EVENT_TYPE_READY
        self._received.put_nowait((fresh, arrived_at))
        self._wake()

    # ---- calls, one after the other ----------------------------------------------------------------------------------------

    async def _run(self, call: AvatarStream | None) -> None:
        try:
            while call is not None and (cause := await self._through(call)) is not None:
                call = await self._resume(cause)
        except Exception as error:
            # Raised where somebody iterates, sends or waits.
            self._failure = error
            if self._last_words is not None:
                self._received.put_nowait((self._last_words, time.perf_counter()))
        finally:
            self._over = True
            self._finish()
            self._received.put_nowait(None)
            self._wake()

    async def _through(self, call: AvatarStream) -> ClientError | None:
        """Take in all that a call brings; gives what broke it, or None at the session's end. Raises what ended the session."""
        began = time.perf_counter()
        writing = asyncio.create_task(self._write(call))
        broke = ClientError(grpc.StatusCode.CANCELLED, "the server ended the call before the session's end")
        try:
            async for payload in call:
                self._take(payload, call.arrived_at)
        except ClientError as error:
            broke = error
        finally:
            self._call = None
            self._wake()
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            await call.hang_up()
        if self._closed:
            return None
        if is_final(broke := self._explained(broke)):
            raise broke
        if time.perf_counter() - began > STEADY_S:
            self._broken_at = None
        return broke

    def _explained(self, broke: ClientError) -> ClientError:
        """The status of a call that broke after it was told why it fails is in that message."""
        words = self._last_words
        if broke.reason or words is None or words.reason not in REASONS:
            return broke
        return ClientError(REASONS[words.reason].code, words.message, words.reason)

    async def _resume(self, cause: ClientError) -> AvatarStream | None:
        """Another call that goes on, or None when it turns out that nothing is missing. Raises when it may not be."""
        if self._broken_at is None:
            self._broken_at, self._attempts = time.perf_counter(), 0
            self._waits = self._policy.waits(random.Random())
        last = cause
        while (left := self._policy.limit_s - (time.perf_counter() - self._broken_at)) > 0:
            await asyncio.sleep(min(left, max(next(self._waits), last.retry_after_s or 0.0)))
            self._attempts += 1
            try:
                call = await self._attempt(self._policy.attempt_s)
            except ClientError as error:
                last = error
                if error.reason == "SESSION_ENDED":
                    await self._require_all(cause, error)
                    return None
                if is_final(error, resuming=True):
                    raise
            else:
                self._go_on(call, cause)
                return call
        raise ResumeFailed(self.session.name, cause, last, self._attempts, self._policy.limit_s)

    async def _attempt(self, patience_s: float) -> AvatarStream:
        resume = pb2.Resume(token=self.session.resume_token, next_frame=self._progress.frames)
        try:
            async with asyncio.timeout(patience_s):
                call = await self._open(pb2.SessionConfig(resume=resume), False).__aenter__()
        except TimeoutError:
            raise ClientError(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer within {patience_s:.0f} s") from None
        try:
            self._log.rewind(call.session.next_request)
        except ClientError:
            await call.hang_up()
            raise
        return call

    def _go_on(self, call: AvatarStream, cause: ClientError) -> None:
        assert self._broken_at is not None
        self._progress.resumed()
        self._acks.resumed(self._progress.frames)
        self._close_sent, self._last_words = False, None
        self._ready = self._ready or call.is_ready
        self._call = call
        outage = Outage(cause, time.perf_counter() - self._broken_at, self._attempts, self._progress.frames)
        self.outages.append(outage)
        self._wake()
        if self._on_resume is not None:
            self._on_resume(outage)

    async def _require_all(self, cause: ClientError, ended: ClientError) -> None:
        """The session has ended while the connection was away: as asked for, with every frame received, or this raises."""
        for _ in range(RECORD_TRIES if self._close_at is not None else 0):
            with suppress(ClientError):
                record = await self._find(self.session.name)
                if record.state == pb2.SESSION_STATE_CLOSED and record.frames == self._progress.frames:
                    at_us = round(record.frames * 1e6 / self.session.fps)
                    self._take(pb2.Event(type=pb2.EVENT_TYPE_CLOSED, pts_us=at_us), time.perf_counter())
                    return
                if record.state == pb2.SESSION_STATE_CLOSED:
                    lost = f"frames {self._progress.frames} to {record.frames - 1} were lost with the connection"
                    ended = ClientError(ended.code, f"{ended.message}; {lost} ({cause})", ended.reason)
                    break
            await asyncio.sleep(RECORD_WAIT_S)
        # A server that failed says so once, and that the session has ended from then on.
        raise cause if cause.reason == "INTERNAL" else ended

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not (condition() or self._over):
            await self._change()

    async def _change(self) -> None:
        self._news.clear()
        await self._news.wait()

    def _wake(self) -> None:
        self._news.set()
