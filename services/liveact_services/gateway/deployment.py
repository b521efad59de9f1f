"""Gateway: liveact.v1.AvatarService as a Serve ingress. The only microservice that talks to clients."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
import weakref
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any

import liveact_services
from liveact.v1 import avatar_pb2 as pb
from liveact_models.config import ModelConfig
from liveact_models.voice.source import RATES as SAMPLE_RATES
from liveact_services.audit.reading import read_trails
from liveact_services.audit.store import AuditStore
from liveact_services.audit.trail import AuditTrail
from liveact_services.audit.witness import Witness, swept
from liveact_services.conductor.journal import Journal
from liveact_services.conductor.succession import SucceedingStages
from liveact_services.config import ServiceConfig
from liveact_services.errors import ServiceError, as_service_error, fail
from liveact_services.gateway import requests
from liveact_services.gateway.call_meter import StreamCall
from liveact_services.gateway.catalogue import Catalogue
from liveact_services.gateway.catalogue_calls import CatalogueCalls
from liveact_services.gateway.departure import Departure
from liveact_services.gateway.health import Health
from liveact_services.gateway.ledger import Ledger
from liveact_services.gateway.live_session import LiveSession
from liveact_services.gateway.messages import CODECS, IDLE_POLICIES, PACINGS, duration
from liveact_services.gateway.portraits import Source, source
from liveact_services.gateway.serve_stages import ServeArchive, StageHandles, serve_stages
from liveact_services.gateway.session_meter import measure_sessions
from liveact_services.gateway.status import set_status
from liveact_services.gateway.takeover import take_over
from liveact_services.gateway.warm_up import warm_up
from liveact_services.observability.process import observe_process
from liveact_services.observability.tracing import TRACING
from liveact_services.placement.departing import until_stopped
from liveact_services.replica import replica_id
from liveact_services.sessions import (
    AvatarStore,
    Database,
    Leases,
    RequestQuota,
    SessionRecord,
    SessionState,
    SessionStore,
    Sweeper,
    names,
)
from liveact_services.sessions.clusters import Clusters
from liveact_services.sessions.tokens import new_resume_token, token_hash
from liveact_services.tenants import Access, Caller, Quotas
from liveact_services.tenants.rules import Rules

if TYPE_CHECKING:
    from ray.serve.grpc_util import RayServegRPCContext, gRPCInputStream
    from ray.serve.handle import DeploymentHandle

WARM_UP_AGAIN_S = 5.0
CHECK_S = 2.0
"""How often it is looked at whether those who stream still may."""

log = logging.getLogger(__name__)


class Gateway(CatalogueCalls, Health):
    """Admits sessions, runs a Conductor for each, and answers for avatars, sessions and health."""

    def __init__(
        self,
        config: ServiceConfig,
        model: ModelConfig,
        checkpoint: str,
        redis_url: str,
        conditioner: DeploymentHandle,
        audio_encoder: DeploymentHandle,
        vae_encoder: DeploymentHandle,
        denoisers: dict[str, DeploymentHandle],
        vae_decoder: DeploymentHandle,
        vault: DeploymentHandle,
    ) -> None:
        observe_process(config.telemetry, "Gateway")
        self._config, self._model, self._checkpoint = config, model, checkpoint
        self._handles = StageHandles(conditioner, audio_encoder, vae_encoder, denoisers, vae_decoder, vault)
        self._database = database = Database.connect(redis_url)
        self._store, self._leases, self._avatars = SessionStore(database), Leases(database), AvatarStore(database)
        self._requests = RequestQuota(database)
        directory = config.open_tenants()
        self._access = Access(directory)
        self._archive = ServeArchive(self._handles)
        self._id = replica_id()
        audit = AuditStore(database, config.audit) if config.audit.store else None
        self._trail = AuditTrail(audit, config.audit, self._id)
        self._live: dict[str, LiveSession] = {}
        self._resuming: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._leaving = False
        self._departure = Departure(Clusters(database), config.cluster, self._live.values, self._handles.room)
        self._started_at = time.time()
        self._warm = False
        work = [
            self._warm_up(),
            Sweeper(self._store, ended=partial(swept, self._trail)).run(),
            self._trail.run(),
            self._recheck(),
            self._leave(),
            self._departure.run(),
            self._measure(),
            *([directory.run()] if directory else []),
        ]
        self._tasks = [asyncio.create_task(task) for task in work]

    # ---- the stream --------------------------------------------------------------------------------------------------------

    async def StreamAvatar(
        self, stream: gRPCInputStream, grpc_context: RayServegRPCContext
    ) -> AsyncIterator[pb.StreamAvatarResponse]:
        """One session, or the continuation of one."""
        call = StreamCall(grpc_context.invocation_metadata(), Witness(self._trail, grpc_context.peer()))
        try:
            async for response in self._stream(stream, await self.enter(grpc_context, call.witness), call):
                yield response
        except Exception as error:
            known = as_service_error(error)
            call.failed(known)
            set_status(grpc_context, known)
            # The status travels with a message (see `CatalogueCalls`), so the failure is told as an event too.
            event = pb.Event(type=pb.EVENT_TYPE_FAILED, reason=known.reason, message=known.message)
            yield pb.StreamAvatarResponse(event=event)
        finally:
            call.end()

    async def enter(self, context: RayServegRPCContext, witness: Witness | None = None) -> Caller:
        """Whose call this is, once it is counted. Raises `ServiceError`."""
        caller = await self._access.caller(context.invocation_metadata())
        if witness is not None:
            witness.caller = caller
        await self._requests.spend(caller.tenant)
        return caller

    async def _stream(
        self, stream: AsyncIterator[pb.StreamAvatarRequest], caller: Caller, call: StreamCall
    ) -> AsyncIterator[pb.StreamAvatarResponse]:
        config = await requests.first_config(stream, self._config.sessions.config_timeout_s)
        if config.HasField("resume"):
            live, number = await self._resume(config.resume, caller, call)
            token = config.resume.token
        else:
            live, token, portrait = await self._admit(config, caller, call.trace)
            call.serves(live, portrait)
            number = live.attach(caller)
        reader = asyncio.create_task(self._read(stream, live, number))
        try:
            yield pb.StreamAvatarResponse(session=self._introduce(live, token))
            async for message in live.messages():
                yield message
        finally:
            reader.cancel()
            live.detach(number)

    async def _read(self, stream: AsyncIterator[pb.StreamAvatarRequest], live: LiveSession, number: int) -> None:
        closed = lost = False
        while True:
            try:
                request = await anext(stream)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                # The end of the client's side, a cancelled call and a proxy that died: whoever was there has gone.
                lost = not isinstance(error, StopAsyncIteration)
                if lost:
                    log.info("stream lost: %s", type(error).__name__, extra={"session_id": live.spec.session})
                break
            closed = closed or request.HasField("close")
            try:
                live.handle(request)
            except Exception as error:
                live.fail(as_service_error(error))
                return
        # A client that has closed may end its side and go on listening; one whose connection broke does not listen.
        if lost or not closed:
            live.abandon(number)

    async def _admit(self, config: pb.SessionConfig, caller: Caller, trace: str) -> tuple[LiveSession, str, Source]:
        if self._leaving:
            raise fail("SHUTTING_DOWN", "this server stops")
        limits = self._config.sessions
        # The config may have come a while after the call.
        tenant = self._access.check(caller)
        rules = Rules.of(self._config.trust, tenant)
        spec = requests.session_spec(config, names.new_id(), self._model, limits, tenant)
        spec = dataclasses.replace(requests.marked(spec, config, self._config.trust, rules), trace=trace)
        voice = requests.voice_format(config.audio_format)
        portrait = await source(config, self._avatars, tenant.id, rules)
        with TRACING.span("portrait", trace):
            picture = await asyncio.to_thread(requests.portrait, portrait.image, spec.width, spec.height)
        session, now = spec.session, time.time()
        token = new_resume_token(session)
        record = SessionRecord(
            id=session, tenant=tenant.id, state=SessionState.ADMITTED, width=spec.width, height=spec.height, fps=spec.fps,
            sample_rate_hz=spec.rate, channels=1, encoding=pb.AUDIO_ENCODING_PCM_S16LE, codec=CODECS[spec.codec],
            pacing=PACINGS[spec.pacing], idle_policy=IDLE_POLICIES[spec.idle], seed=spec.seed, prompt=spec.prompt,
            create_time=now, update_time=now, expire_time=now + limits.idle_timeout_s, checkpoint=self._checkpoint,
            resume_hash=token_hash(token), gateway=self._id, weight=spec.weight, pool=spec.pool, watermark=spec.watermark,
        )  # fmt: skip
        ledger = Ledger(record, self._store, self._leases, self._id, limits, tenant.quotas)
        with TRACING.span("admit", trace):
            await ledger.admit()
        stages = self._stages(ledger)
        journal = Journal(self._archive, session, ledger.attempt, stages.protect)
        live = LiveSession(spec, voice, stages, ledger, limits, self._ended, journal)
        self._live[session] = live
        live.start(picture.image)
        return live, token, portrait

    async def _resume(self, resume: pb.Resume, caller: Caller, call: StreamCall) -> tuple[LiveSession, int]:
        call.resumes()
        tenant = self._access.check(caller)
        record = await self._store.resume(resume.token, tenant.id)
        # One after the other: of two streams that come for one session the second finds what the first has made.
        turn = self._resuming.setdefault(record.id, asyncio.Lock())
        async with turn:
            live = self._live.get(record.id)
            if live is not None and live.ledger.yields_to(record):
                await live.let_go()
                live = None
            if live is None:
                taken = await self._take_over(record, resume.next_frame, tenant.quotas, caller)
                call.resumed(taken[0], "taken_over")
                return taken
            live.ledger.quotas = tenant.quotas
            await live.ledger.attach()
            number = live.resume(resume.next_frame, caller)
            call.resumed(live, "here")
            return live, number

    async def _take_over(
        self, record: SessionRecord, frame: int, quotas: Quotas, caller: Caller
    ) -> tuple[LiveSession, int]:
        """Go on with a session of another Gateway, whether that one has gone or was not reached."""
        if self._leaving:
            raise fail("SHUTTING_DOWN", "this server stops")
        limits = self._config.sessions
        ledger = Ledger(record, self._store, self._leases, self._id, limits, quotas)
        await ledger.attach()
        live = await take_over(ledger, self._archive, self._stages, limits, self._ended, frame)
        self._live[record.id] = live
        if ledger.record.state is SessionState.DETACHED:
            ledger.moved(SessionState.STREAMING)
        return live, live.attach(caller)

    def _stages(self, ledger: Ledger) -> SucceedingStages:
        return serve_stages(self._handles, self._config.sessions, ledger.attempt, ledger.make_sure)

    def _introduce(self, live: LiveSession, token: str) -> pb.Session:
        message = live.ledger.record.to_proto()
        message.resume_token = token
        message.next_sequence, message.next_request = live.next_sequence, live.next_request
        message.credit_frames = self._config.sessions.credit_frames
        message.playout_delay.CopyFrom(duration(live.conductor.clock.playout_delay))
        return message

    def _ended(self, live: LiveSession) -> None:
        # Another may have its place by now: one that was taken over, and came back.
        if self._live.get(live.spec.session) is live:
            del self._live[live.spec.session]

    async def _warm_up(self) -> None:
        while not self._warm:
            try:
                for pool in self._handles.denoisers:
                    took = await warm_up(serve_stages(self._handles, self._config.sessions), self._model, pool)
                    log.info("pool %s is warm after %.1f s", pool, took)
                self._warm = True
            except Exception:
                log.exception("the warm-up failed and is tried again")
                await asyncio.sleep(WARM_UP_AGAIN_S)

    async def _recheck(self) -> None:
        """Who would not be let in any more is turned away; who goes on does so under the quotas of now."""
        while True:
            await asyncio.sleep(CHECK_S)
            for live in list(self._live.values()):
                try:
                    live.ledger.quotas = self._access.check(live.caller).quotas
                except ServiceError as error:
                    live.turn_away(error)

    async def _measure(self) -> None:
        """Tell what runs here."""
        while True:
            held = [(live.ledger.record.state, live.spec.pool) for live in self._live.values()]
            measure_sessions(held, self._handles.denoisers, store_away=self._database.away)
            await asyncio.sleep(CHECK_S)

    # ---- avatars and sessions ----------------------------------------------------------------------------------------------

    async def catalogue(self, context: RayServegRPCContext) -> Catalogue:
        witness = Witness(self._trail, context.peer())
        caller = await self.enter(context, witness)
        rules = Rules.of(self._config.trust, caller.tenant)
        return Catalogue(self._avatars, self._store, self._model, caller.tenant.id, rules, witness)

    async def close_live(self, name: str, tenant: str) -> None:
        live = self._live.get(names.session_id(name))
        # Another tenant's is not here, as one that does not exist is not.
        if live is not None and live.spec.tenant == tenant:
            await live.close()

    # ---- the server --------------------------------------------------------------------------------------------------------

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, grpc_context: RayServegRPCContext
    ) -> pb.GetServerInfoResponse:
        """What runs here and what it accepts."""
        limits = self._model.limits
        return pb.GetServerInfoResponse(
            version=liveact_services.__version__, preset=self._model.name, checkpoint=self._checkpoint,
            min_side=limits.minimum, max_side=limits.maximum,
            default_width=limits.default[0], default_height=limits.default[1],
            codecs=list(CODECS.values()), sample_rates_hz=SAMPLE_RATES, sessions=await self._sessions_of(grpc_context),
        )  # fmt: skip

    async def _sessions_of(self, context: RayServegRPCContext) -> int:
        """How many sessions of the caller run here; none of a caller who does not say who it is."""
        try:
            tenant = (await self._access.caller(context.invocation_metadata())).tenant.id
        except ServiceError:
            return 0
        return sum(live.spec.tenant == tenant for live in self._live.values())

    async def _leave(self) -> None:
        """Serve stops a Gateway without telling it: its streams go on until `drain_timeout_s` is over, and are told so."""
        await until_stopped()
        await self.go_away()

    async def go_away(self) -> None:
        """Take no new sessions, and tell those there are."""
        self._leaving = True
        for live in self._live.values():
            live.going_away()

    async def read_audit(self, tenant: str | None, since: float) -> list[dict[str, Any]]:
        """What `liveact audit` lists where it cannot reach the session store itself: of each tenant its events and faults."""
        return await read_trails(AuditStore(self._database, self._config.audit), tenant, since)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What the autoscaling policy hears; numbers only."""
        return {"held": float(len(self._live)), "started_at": self._started_at}
