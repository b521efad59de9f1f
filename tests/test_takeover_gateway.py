"""Two Gateways, one real Valkey, one Vault: who has a session, and that whoever had it before does nothing more to it."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from graph_fixtures import ScriptedGraph
from liveact.v1 import avatar_pb2 as pb
from liveact_models.timeline import block_frames
from liveact_services.audit.config import AuditConfig
from liveact_services.audit.reading import read_trails
from liveact_services.audit.store import AuditStore
from liveact_services.audit.trail import AuditTrail
from liveact_services.audit.witness import Witness
from liveact_services.conductor.journal import Journal
from liveact_services.conductor.parts import Part
from liveact_services.conductor.patience import Patience
from liveact_services.conductor.stages import Codec, Pacing
from liveact_services.conductor.succession import SucceedingStages
from liveact_services.config import ServiceConfig
from liveact_services.errors import ServiceError
from liveact_services.gateway import deployment
from liveact_services.gateway.call_meter import StreamCall
from liveact_services.gateway.ledger import Ledger
from liveact_services.gateway.live_session import LiveSession
from liveact_services.gateway.requests import VoiceFormat
from liveact_services.sessions import Database, Leases, SessionRecord, SessionState, SessionStore
from liveact_services.sessions.names import new_id
from liveact_services.sessions.tokens import new_resume_token, token_hash
from liveact_services.tenants import Access
from liveact_services.vault.shelf import Shelf
from session_fixtures import fails
from stage_fixtures import FPS, RATE, session_spec
from test_live_session import PORTRAIT, Stream, voice

pytest_plugins = ["session_fixtures"]

SECONDS = 12.0
SESSION = new_id()
TOKEN = new_resume_token(SESSION)


class Gateway(deployment.Gateway):
    """A Gateway without the cluster behind it: its stages and its Vault are a graph by script."""

    def __init__(self, name: str, graph: ScriptedGraph, database: Database) -> None:
        self._id, self.graph = name, graph
        self._archive = graph  # type: ignore[assignment]
        self._store, self._leases = SessionStore(database), Leases(database)
        self._access, self._config = Access(None), ServiceConfig(checkpoint="untrained")
        self._live, self._resuming = {}, weakref.WeakValueDictionary()
        self._leaving = False
        self.trail = AuditTrail(AuditStore(database, AuditConfig()), AuditConfig(), name)
        self.ended: list[LiveSession] = []
        self.begun: list[LiveSession] = []

    @property
    def store(self) -> SessionStore:
        return self._store

    def limit(self, **limits: Any) -> None:
        self._config = ServiceConfig(checkpoint="untrained", sessions=limits)  # type: ignore[arg-type]

    def _stages(self, ledger: Ledger) -> SucceedingStages:
        return SucceedingStages(
            self.graph,
            Patience(5.0, 30.0),
            self.graph.export_blocks,
            attempt=ledger.attempt,
            make_sure=ledger.make_sure,
        )

    def _ended(self, live: LiveSession) -> None:
        super()._ended(live)
        self.ended.append(live)

    async def begin(self, *, created_s_ago: float = 0.0, **spec: Any) -> LiveSession:
        """As `_admit`, of a spec."""
        agreed = session_spec(Pacing.FASTEST, codec=Codec.RGB, **{"session": SESSION, **spec})
        now = time.time()
        record = SessionRecord(
            id=agreed.session, tenant="default", state=SessionState.ADMITTED, width=32, height=32, fps=FPS,
            sample_rate_hz=RATE, channels=1, encoding=1, codec=3, pacing=1, idle_policy=1, seed=7,
            create_time=now - created_s_ago, update_time=now, expire_time=now + 60, gateway=self._id,
            resume_hash=token_hash(TOKEN),
        )  # fmt: skip
        limits = self._config.sessions
        ledger = Ledger(record, self._store, self._leases, self._id, limits)
        await ledger.admit()
        stages = self._stages(ledger)
        journal = Journal(self.graph, agreed.session, ledger.attempt, stages.protect)
        form = VoiceFormat(RATE, 1, "s16le")
        live = LiveSession(agreed, form, stages, ledger, limits, self._ended, journal)
        self._live[agreed.session] = live
        self.begun.append(live)
        live.start(PORTRAIT)
        return live

    async def resume(self, frame: int) -> tuple[LiveSession, Stream]:
        """A client comes with its token; the session as it then is here, and the client's new stream."""
        wanted, caller = pb.Resume(token=TOKEN, next_frame=frame), await self._access.caller(())
        witness = Witness(self.trail)
        witness.caller = caller
        live, number = await self._resume(wanted, caller, StreamCall((), witness))
        introduced = self._introduce(live, TOKEN)
        assert (introduced.next_request, introduced.next_sequence) == (live.next_request, live.next_sequence)
        self.begun.append(live)
        return live, Stream(live, number)


async def kill(live: LiveSession) -> None:
    """Its process dies: nothing more is said, written or closed."""
    live._end = asyncio.current_task()  # type: ignore[assignment]
    for task in (live._performance, live._timers, live.ledger._writer):
        if task is not None:
            task.cancel()
    live._stages.let_go()
    if live.journal is not None:
        live.journal.close()
    await asyncio.sleep(0)


class Pair:
    """The two, and the pieces of voice that their client keeps."""

    def __init__(self, database: Database) -> None:
        self.graph = ScriptedGraph(denoise_s=0.05, part_s=0.003)
        self.one, self.two = (Gateway(name, self.graph, database) for name in ("gateway-1", "gateway-2"))
        data, size = voice(SECONDS), 2 * RATE // 2
        self.requests = [
            pb.StreamAvatarRequest(audio=pb.AudioChunk(data=data[at : at + size], utterance_id="u", sequence=n))
            for n, at in enumerate(range(0, len(data), size))
        ]
        self.requests.append(pb.StreamAvatarRequest(end_utterance=pb.EndUtterance(utterance_id="u")))

    def say(self, live: LiveSession) -> None:
        for request in self.requests[live.next_request :]:
            live.handle(request)
        live.handle(pb.StreamAvatarRequest(close=pb.Close()))

    async def watched(self, live: LiveSession, frames: int) -> Stream:
        stream = await Stream.open(live).ready()
        self.say(live)
        await stream.until(lambda: len(stream.frames) >= frames)
        return stream

    async def whole(self) -> Stream:
        """All of it at one Gateway, undisturbed."""
        live = await self.one.begin(session=new_id())
        stream = await Stream.open(live).ready()
        self.say(live)
        return await stream.end()


@pytest_asyncio.fixture
async def pair(database: Database) -> AsyncIterator[Pair]:
    pair = Pair(database)
    yield pair
    for live in pair.one.begun + pair.two.begun:
        if not live.over:
            await live.close()


def contents(*streams: Stream) -> list[tuple[int, bytes]]:
    return [(frame.index, frame.data) for stream in streams for frame in stream.frames]


async def test_a_session_whose_gateway_was_killed_goes_on_at_another(pair: Pair) -> None:
    expected = await pair.whole()
    live = await pair.one.begin()
    first = await pair.watched(live, block_frames(4).start + 7)
    await first.lose()
    await kill(live)
    seen = len(first.frames)
    again, second = await pair.two.resume(seen)
    assert 0 < again.next_sequence <= again.next_request < len(pair.requests)
    pair.say(again)
    await second.end()
    assert contents(first, second) == contents(expected)
    assert expected.sound.endswith(second.sound)
    migrated = next(m.event for m in second.received if m.event.type == pb.EVENT_TYPE_MIGRATED)
    assert migrated.message.startswith("another gateway took over after")
    assert migrated.pts_us == seen * 1_000_000 // FPS
    async with asyncio.timeout(5):
        while (record := await pair.two.store.get(SESSION, "default")).state is not SessionState.CLOSED:
            await asyncio.sleep(0.02)
    assert (record.gateway, record.frame) == ("gateway-2", len(expected.frames))
    assert all(pair.graph.holder(part, SESSION) is None for part in Part)
    assert pair.graph.shelf is not None
    assert SESSION not in pair.graph.shelf.sessions


async def test_the_audit_trail_tells_who_took_a_session_over_and_how_it_ended(pair: Pair, database: Database) -> None:
    live = await pair.one.begin()
    first = await pair.watched(live, block_frames(4).start)
    await first.lose()
    await kill(live)
    again, second = await pair.two.resume(len(first.frames))
    pair.say(again)
    await second.end()
    async with asyncio.timeout(5):
        while again not in pair.two.ended:
            await asyncio.sleep(0.02)
    running = asyncio.create_task(pair.two.trail.run())
    await pair.two.trail.flush(5)
    running.cancel()
    (told,) = await read_trails(AuditStore(database, AuditConfig()), "default")
    assert told["faults"] == []
    assert {(event["gateway"], event["session"]) for event in told["events"]} == {("gateway-2", SESSION)}
    assert [(event["action"], event.get("detail", "")) for event in told["events"]] == [
        ("session.resumed", "taken_over"), ("session.moved", "gateway"), ("session.closed", ""),
    ]  # fmt: skip
    assert told["events"][-1]["frames"] == len(first.frames) + len(second.frames)


async def test_a_gateway_that_lives_lets_go_of_what_was_taken_and_closes_nothing(pair: Pair) -> None:
    expected = await pair.whole()
    live = await pair.one.begin()
    first = Stream.open(live, acks=False)
    await first.ready()
    pair.say(live)
    await first.until(lambda: len(first.frames) > 50)
    again, second = await pair.two.resume(50)
    pair.say(again)
    await first.fails("SESSION_TAKEN_OVER")
    async with asyncio.timeout(5):
        while live not in pair.one.ended:
            await asyncio.sleep(0.02)
    assert await second.until(lambda: len(second.frames) > 60) is None
    record = await pair.two.store.get(SESSION, "default")
    assert (record.gateway, record.state.ended) == ("gateway-2", False)
    await second.end()
    assert contents(second) == contents(expected)[50:]
    # And it is told nothing but that: late words of its own reach nobody.
    with pytest.raises(ServiceError, match="SESSION_TAKEN_OVER"):
        await live.ledger.make_sure()


async def test_what_the_other_wrote_while_the_session_was_taken_counts(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await pair.whole()
    live = await pair.one.begin()
    # Its moves have not come to Redis when the client comes to the other.
    live.ledger._writer.cancel()  # type: ignore[union-attr]
    first = await pair.watched(live, 30)
    await first.lose()
    acquire = pair.two._leases.acquire

    async def late(*arguments: Any, **options: Any) -> int:
        assert (await pair.one.store.get(SESSION, "default")).state is SessionState.ADMITTED
        await live.ledger._flush()
        assert (await pair.one.store.get(SESSION, "default")).state is SessionState.DETACHED
        return await acquire(*arguments, **options)

    monkeypatch.setattr(pair.two._leases, "acquire", late)
    again, second = await pair.two.resume(len(first.frames))
    pair.say(again)
    await second.end()
    assert contents(first, second) == contents(expected)
    assert again.ledger.refusal is None
    async with asyncio.timeout(5):
        while (await pair.two.store.get(SESSION, "default")).state is not SessionState.CLOSED:
            await asyncio.sleep(0.02)


async def test_a_session_may_come_back_to_where_it_was(pair: Pair) -> None:
    expected = await pair.whole()
    live = await pair.one.begin()
    streams = [await pair.watched(live, 30)]
    for gateway in (pair.two, pair.one, pair.two):
        await streams[-1].lose()
        live, stream = await gateway.resume(sum(len(stream.frames) for stream in streams))
        streams.append(stream)
        pair.say(live)
        if gateway is not pair.two or len(streams) == 2:
            await streams[-1].until(lambda: len(streams[-1].frames) >= 40)
    await streams[-1].end()
    assert contents(*streams) == contents(expected)


async def test_who_cannot_go_on_with_a_session_leaves_it_where_it_is(pair: Pair) -> None:
    live = await pair.one.begin()
    stream = await pair.watched(live, 30)
    await fails(pair.two.resume(5000), "RESUME_FRAME_UNAVAILABLE")
    shelf, pair.graph.shelf = pair.graph.shelf, Shelf(1 << 26, 1e9)
    await fails(pair.two.resume(30), "SESSION_LOST")
    pair.graph.shelf = shelf
    await stream.end()
    assert (await pair.one.store.get(SESSION, "default")).gateway == "gateway-1"
    assert stream.events[-1] == pb.EVENT_TYPE_CLOSED


async def test_a_lapsed_lease_that_nobody_took_is_taken_back(pair: Pair, database: Database) -> None:
    live = await pair.one.begin()
    stream = await pair.watched(live, 30)
    before = live.ledger.record.token
    await database.call(database.client.delete(database.key("session", SESSION, "lease")))
    async with asyncio.timeout(5):
        while live.ledger.record.token == before:
            await asyncio.sleep(0.02)
    await stream.end()
    assert (await pair.one.store.get(SESSION, "default")).frame == len(stream.frames)


async def test_a_part_that_was_lost_is_not_placed_by_who_has_the_session_no_more(pair: Pair) -> None:
    live = await pair.one.begin()
    stream = Stream.open(live, acks=False)
    await stream.ready()
    pair.say(live)
    await stream.until(lambda: len(stream.frames) > 60)
    # Its own way of finding out is slower than the loss.
    live.ledger._writer.cancel()  # type: ignore[union-attr]
    token = await pair.two._leases.acquire(SESSION, "gateway-2", 10_000, take_over=True)
    opened, adopted = list(pair.graph.counts.opened), list(pair.graph.counts.adopted)
    for part in Part:
        pair.graph._end(part, pair.graph.holder(part, SESSION))  # type: ignore[arg-type]
    with pytest.raises(ServiceError, match="SESSION_TAKEN_OVER"):
        await live._stages.keep()
    assert (pair.graph.counts.opened, pair.graph.counts.adopted) == (opened, adopted)
    await pair.two._leases.release(SESSION, token)
    await kill(live)


async def test_the_time_of_a_session_begins_with_its_first_gateway(pair: Pair) -> None:
    pair.two.limit(max_duration_s=100.0)
    live = await pair.one.begin(created_s_ago=98.5)
    stream = await pair.watched(live, 30)
    await stream.lose()
    await kill(live)
    _, second = await pair.two.resume(30)
    assert pb.EVENT_TYPE_EXPIRING not in second.events
    await second.fails("SESSION_EXPIRED", within=10.0)
