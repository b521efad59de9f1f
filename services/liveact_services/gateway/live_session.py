"""One session at the Gateway: it outlives the streams that attach to it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Callable

import numpy as np

from liveact.v1 import avatar_pb2 as pb
from liveact_models.config import DEFAULT_PROMPT
from liveact_models.timeline import block_of_frame
from liveact_services.conductor.conductor import Conductor
from liveact_services.conductor.journal import Journal
from liveact_services.conductor.outputs import Event, Happening, Output, Sound, Video
from liveact_services.conductor.parts import Moved
from liveact_services.conductor.points import Opening
from liveact_services.conductor.stages import SessionSpec, Stages
from liveact_services.config import SessionLimits
from liveact_services.errors import ServiceError, as_service_error, fail
from liveact_services.gateway import requests
from liveact_services.gateway.ledger import Ledger
from liveact_services.gateway.messages import responses
from liveact_services.gateway.outbox import Outbox
from liveact_services.gateway.requests import VoiceFormat
from liveact_services.gateway.session_meter import SessionMeter
from liveact_services.gateway.session_timers import Due, SessionTimers, Standing
from liveact_services.independent import independent
from liveact_services.sessions import SessionState
from liveact_services.tenants.access import ANYBODY, Caller, is_about_credential

TICK_S = 0.25
FAREWELL_S = 5.0
"""How long a session that is over waits for an acknowledgement, and the next."""
FAREWELL_POLL_S = 0.02

log = logging.getLogger(__name__)


class LiveSession:
    """A Conductor, what it has to say, and the client's side of the conversation.

    A stream attaches, hands in requests and reads messages. Losing the stream leaves the session DETACHED, starting no blocks,
    until another attaches or it expires.
    """

    def __init__(
        self,
        spec: SessionSpec,
        voice: VoiceFormat,
        stages: Stages,
        ledger: Ledger,
        limits: SessionLimits,
        ended: Callable[[LiveSession], None],
        journal: Journal | None = None,
    ) -> None:
        self.spec, self.ledger, self.journal = spec, ledger, journal
        self._voice, self._stages, self._limits, self._ended = voice, stages, limits, ended
        self._outbox = Outbox()
        stages.listen(self._moved)
        self.conductor = Conductor(
            spec, stages, self._emit, credit_frames=limits.credit_frames, max_waiting_s=limits.max_pending_voice_s,
            journal=journal,
        )  # fmt: skip
        self.meter = SessionMeter(spec, self.conductor.clock)
        self.is_ready = False
        self._taken_over_at: float | None = None
        """When a client came for a session of another Gateway that it has had nothing of yet."""
        self._departs = False
        """Whether whoever takes the session over is likely to be at another cluster."""
        self._streams = 0
        self._attached = False
        self.caller = ANYBODY
        """Whose the attached stream is, or the last one was."""
        self._clocks = SessionTimers(limits, max(0.0, time.time() - ledger.record.create_time))
        self._noticed = ""
        """The utterance whose clipping was told last: once is enough."""
        self._performance: asyncio.Task[None] | None = None
        self._timers: asyncio.Task[None] | None = None
        self._end: asyncio.Task[None] | None = None

    # ---- streams -----------------------------------------------------------------------------------------------------------

    def start(self, portrait: np.ndarray) -> None:
        """Prepare the session and perform, in the background. `portrait`: float32 [3, H, W] in [-1, 1]."""
        if self.journal is not None:
            self.journal.open(Opening(self.spec, dataclasses.asdict(self._voice)), portrait)
        self._performance = independent(self._perform(portrait))
        self._timers = independent(self._watch())

    def go_on(self, frame: int, since: float) -> None:
        """Perform a session that another Gateway began: its Conductor and stages stand where that one's did.

        `frame`: the first the client wants; `since`: when it came, by the monotonic clock.
        """
        self._outbox = Outbox(frame)
        self.is_ready, self._taken_over_at = True, since
        self._performance = independent(self._perform(None))
        self._timers = independent(self._watch())

    def attach(self, caller: Caller = ANYBODY) -> int:
        """A caller's stream takes the session; gives its number. A stream that had it finds itself taken over."""
        self.caller = caller
        self._streams += 1
        self._attached = self.ledger.attached = True
        self._clocks.attached()
        self.conductor.pause(False)
        return self._streams

    def detach(self, stream: int) -> None:
        """The stream is gone; if it is still the session's, the session waits for another."""
        if stream != self._streams or self.over or self._outbox.drained:
            return
        self._attached = self.ledger.attached = False
        self._clocks.left()
        self.conductor.pause(True)
        if self.is_ready:
            self.ledger.moved(SessionState.DETACHED)

    def abandon(self, stream: int) -> None:
        """The client's side ended without close: end the stream too, and leave the session to be resumed."""
        if stream == self._streams and not self.over:
            self._outbox.break_off(
                fail("STREAM_NOT_CLOSED", "the stream ended without close; resume it with its token")
            )

    def turn_away(self, error: ServiceError) -> None:
        """The caller would not be let in any more.

        A credential that is accepted no more ends its stream, and another of the same tenant resumes the session; a tenant
        that is accepted no more loses the session.
        """
        if not is_about_credential(error):
            self.fail(error)
        else:
            self._break_off(error)

    @property
    def moveable(self) -> bool:
        """Whether there is a client that could go on elsewhere, and a value from which."""
        return self.is_ready and self._attached and not self.over and self._limits.export_blocks > 0

    async def depart(self, error: ServiceError) -> None:
        """Have the client resume elsewhere, from as late a value as can be: it is told, and its stream ends with this."""
        self._departs = True
        self.going_away(error.message)
        await self._stages.pack()
        self._break_off(error)

    def _break_off(self, error: ServiceError) -> None:
        if self._attached and not self.over:
            self._outbox.break_off(error)

    def resume(self, next_frame: int, caller: Caller = ANYBODY) -> int:
        """Attach, and have the messages start with this frame. Raises `ServiceError` when it is not here."""
        if self.over:
            raise fail("SESSION_ENDED", "the session has ended")
        self._outbox.rewind(next_frame)
        if self.ledger.record.state is SessionState.DETACHED:
            self.ledger.moved(SessionState.STREAMING)
        return self.attach(caller)

    def messages(self) -> AsyncIterator[pb.StreamAvatarResponse]:
        """What the attached stream is to send, to the session's end; raises what ended it."""
        return self._outbox.messages()

    @property
    def next_sequence(self) -> int:
        """Number of the next piece of voice."""
        return self.conductor.pieces

    @property
    def next_request(self) -> int:
        """How many requests that act on the performance were taken in: a client that resumes goes on with this one."""
        return self.conductor.requests

    @property
    def over(self) -> bool:
        """Whether the session has ended, in whatever way."""
        return self._end is not None

    # ---- requests ----------------------------------------------------------------------------------------------------------

    def handle(self, request: pb.StreamAvatarRequest) -> None:
        """Do what the client says. Raises `ServiceError` for what cannot be done."""
        self._clocks.heard()
        kind = request.WhichOneof("payload")
        match kind:
            case None:
                raise fail("PAYLOAD_MISSING", "a message without content")
            case "config":
                raise fail("CONFIG_REPEATED", "the stream has its config; it takes one")
            case "audio":
                self._hear(request.audio)
            case "end_utterance":
                self._require_ready(kind)
                self.conductor.end_utterance(requests.utterance_id(request.end_utterance.utterance_id))
            case "interrupt":
                self._require_ready(kind)
                self.conductor.interrupt()
            case "update":
                self._update(request.update)
            case "ack":
                self.conductor.ack(request.ack.next_frame)
                self._outbox.acked(request.ack.next_frame)
                self._clocks.acked()
            case "close":
                self.conductor.finish()

    def fail(self, error: ServiceError) -> None:
        """End the session because of an error, which the stream is to raise."""
        self._finish(SessionState.FAILED, error)

    async def close(self) -> None:
        """End the session because it was asked for."""
        self._emit(Event(Happening.CLOSED, self.conductor.delivered_frames / self.spec.fps))
        self._finish(SessionState.CLOSED, None)
        assert self._end is not None
        await self._end

    def going_away(self, why: str = "this server stops") -> None:
        """Tell the client."""
        self._emit(Event(Happening.GOING_AWAY, message=why))

    def _hear(self, chunk: pb.AudioChunk) -> None:
        self._require_ready("audio")
        if chunk.sequence != self.next_sequence:
            reason = "SEQUENCE_GAP" if chunk.sequence > self.next_sequence else "SEQUENCE_REPEATED"
            raise fail(reason, f"piece {chunk.sequence} came where piece {self.next_sequence} is next")
        samples, notice = requests.voice(chunk, self._voice)
        self.conductor.hear(chunk.utterance_id, samples)
        self.meter.heard()
        if notice is not None and self._noticed != chunk.utterance_id:
            self._noticed = chunk.utterance_id
            self._emit(notice)

    def _update(self, update: pb.Update) -> None:
        self._require_ready("update")
        at = requests.media_time(update.from_pts_us)
        self.conductor.update(requests.prompt_text(update.prompt, self._limits) or DEFAULT_PROMPT, at)

    def _require_ready(self, kind: str) -> None:
        if not self.is_ready:
            raise fail("NOT_READY", f"{kind} came before READY")

    # ---- the performance ---------------------------------------------------------------------------------------------------

    async def _perform(self, portrait: np.ndarray | None) -> None:
        try:
            await self._stages.open(self.spec, portrait)
            if self.journal is not None:
                await self.journal.opened()
            began, self.is_ready = not self.is_ready, True
            self._clocks.attached()
            self.ledger.placed(self._stages)
            if self.ledger.record.state is SessionState.ADMITTED:
                self.ledger.moved(SessionState.READY)
            if not self._attached:
                self.ledger.moved(SessionState.DETACHED)
            if began:
                self.meter.ready()
            if began or not self.conductor.delivered_frames:
                self._emit(Event(Happening.READY))
            if not self.conductor.behind:
                self._tell_taken_over()
            await self.conductor.run()
            await self._acknowledged()
            self._emit(Event(Happening.CLOSED, self.conductor.delivered_frames / self.spec.fps))
            self._outbox.finish()
            # Until the last message has gone out a client that loses its stream can still resume.
            await self._outbox.drain()
        except Exception as error:
            self._finish(SessionState.FAILED, as_service_error(error))
        else:
            self._finish(SessionState.CLOSED, None)

    async def _acknowledged(self) -> None:
        """Wait until the client has acknowledged the last frame: what was sent can still be lost with its stream.

        While no stream is there, the session waits for one as always. A client that is there and acknowledges no more is not
        waited for, nor one that never did.
        """
        patience, poll = min(FAREWELL_S, self._limits.ack_timeout_s / 2), FAREWELL_POLL_S
        acked, quiet = self.conductor.acked_frames, 0.0
        while 0 < self.conductor.acked_frames < self.conductor.delivered_frames and quiet < patience:
            await asyncio.sleep(poll)
            heard = not self._attached or self.conductor.acked_frames != acked
            acked, quiet = self.conductor.acked_frames, 0.0 if heard else quiet + poll

    def _emit(self, output: Output) -> None:
        if self.over:
            return
        if isinstance(output, Sound):
            self._tell_taken_over()
        if isinstance(output, Video):
            made = output.part.frames[-1].index + 1
            if self.ledger.record.state is SessionState.READY:
                self.ledger.moved(SessionState.STREAMING)
            self.ledger.progress(block_of_frame(made), made)
        self.meter.emitted(output)
        for message in responses(output, self.spec):
            self._outbox.put(message)

    def _tell_taken_over(self) -> None:
        """Tell the client, once, that another Gateway has its session; with its next frame, or when that can be made."""
        if self._taken_over_at is None:
            return
        stall_s, self._taken_over_at = time.monotonic() - self._taken_over_at, None
        frame = self.conductor.delivered_frames
        self._migrated("another gateway", Moved((), block_of_frame(frame), frame, stall_s, "gateway"))

    def _moved(self, moved: Moved) -> None:
        """The session goes on elsewhere: the record says where, and the client how long that took."""
        self.ledger.placed(self._stages)
        self._migrated(" and ".join(f"another {part}" for part in moved.parts), self.conductor.as_shown(moved))

    def _migrated(self, who: str, to: Moved) -> None:
        self.meter.migrated(to.cause, to.stall_s)
        text, at = f"{who} took over after {to.stall_s:.2f} s", to.frame / self.spec.fps
        self._emit(Event(Happening.MIGRATED, at, block=to.block, stall_s=to.stall_s, message=text))

    async def _watch(self) -> None:
        """What time makes due."""
        while not self.over:
            await asyncio.sleep(TICK_S)
            if self.is_ready and self._clocks.keep():
                await self._keep()
            if self.ledger.refusal is not None:
                self.fail(self.ledger.refusal)
                continue
            standing = Standing(self.is_ready, self._attached, self.conductor.out_of_credit, self.ledger.behind)
            match self._clocks.due(standing):
                case (Due.EXPIRE, why):
                    self._finish(SessionState.EXPIRED, fail("SESSION_EXPIRED", why))
                case (Due.CUT_OFF, why):
                    self.fail(fail("ACK_TIMEOUT", why))
                case (Due.WARN, why):
                    self._emit(Event(Happening.EXPIRING, message=why))

    async def _keep(self) -> None:
        try:
            await self._stages.keep()
            if self.journal is not None:
                self.journal.touch()
        except Exception as error:
            # A session that ended meanwhile is not held, and needs not be.
            if not self.over:
                self.fail(as_service_error(error))

    def _finish(self, state: SessionState, error: ServiceError | None) -> None:
        if self.over:
            return
        if error is None:
            self._outbox.finish()
        else:
            self._outbox.fail(error)
        self.meter.ended(state, error, self.ledger.record.frame, self.conductor.acked_frames)
        taken = error is not None and error.reason == "SESSION_TAKEN_OVER"
        self._end = independent(self._leave() if taken else self._wind_up(state))

    async def let_go(self) -> None:
        """The session is another Gateway's: drop it here, and leave its replicas, its journal and its record to that one."""
        self._finish(SessionState.FAILED, fail("SESSION_TAKEN_OVER", "the session went on at another server"))
        assert self._end is not None
        await self._end

    async def _leave(self) -> None:
        try:
            await self._stop()
            self._stages.let_go()
            self.ledger.let_go()
            if self._departs:
                await self._stages.release()
        finally:
            self._ended(self)

    async def _stop(self) -> None:
        if self.journal is not None:
            self.journal.close()
        if self._performance is not None and self._performance is not asyncio.current_task():
            self._performance.cancel()
            await asyncio.gather(self._performance, return_exceptions=True)

    async def _wind_up(self, state: SessionState) -> None:
        await self._stop()
        try:
            await self._stages.close()
        except Exception:
            # The replicas forget an abandoned session by themselves.
            log.exception("session could not be closed on its replicas", extra={"session_id": self.spec.session})
        try:
            await self.ledger.close(state)
        finally:
            self._ended(self)
