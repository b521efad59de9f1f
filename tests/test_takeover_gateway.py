"""Two Gateways, one real Valkey, one Vault: who has a session, and that whoever had it before does nothing more to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from graph_fixtures import ScriptedGraph
from liveact.v1 import avatar_pb2 as pb
from liveact_models.timeline import block_frames
from liveact_services.conductor.journal import Journal
from liveact_services.conductor.parts import Part
from liveact_services.conductor.patience import Patience
from liveact_services.conductor.stages import Codec, Pacing
from liveact_services.conductor.succession import SucceedingStages
from liveact_services.config import SessionLimits
from liveact_services.errors import ServiceError
from liveact_services.gateway.ledger import Ledger
from liveact_services.gateway.live_session import LiveSession
from liveact_services.gateway.requests import VoiceFormat
from liveact_services.gateway.takeover import take_over
from liveact_services.sessions import Database, Leases, SessionRecord, SessionState, SessionStore
from liveact_services.sessions.names import new_id
from liveact_services.vault.shelf import Shelf
from session_fixtures import fails
from stage_fixtures import FPS, RATE, session_spec
from test_live_session import PORTRAIT, Stream, voice

pytest_plugins = ["session_fixtures"]

SECONDS = 12.0


class Gateway:
    """What a Gateway does for sessions, at one name."""

    def __init__(self, name: str, graph: ScriptedGraph, database: Database) -> None:
        self.name, self.graph = name, graph
        self.store, self.leases = SessionStore(database), Leases(database)
        self.limits = SessionLimits()
        self.ended: list[LiveSession] = []
        self.live: list[LiveSession] = []

    def ledger(self, record: SessionRecord) -> Ledger:
        return Ledger(record, self.store, self.leases, self.name, self.limits)

    def stages(self, ledger: Ledger) -> SucceedingStages:
        return SucceedingStages(
            self.graph,
            Patience(5.0, 30.0),
            self.graph.export_blocks,
            attempt=ledger.attempt,
            make_sure=ledger.make_sure,
        )

    async def begin(self, *, created_s_ago: float = 0.0, **spec: Any) -> LiveSession:
        # One session at a time in a graph by script.
        agreed = session_spec(Pacing.FASTEST, codec=Codec.RGB, **spec)
        now = time.time()
        record = SessionRecord(
            id=agreed.session, tenant="t", state=SessionState.ADMITTED, width=32, height=32, fps=FPS,
            sample_rate_hz=RATE, channels=1, encoding=1, codec=3, pacing=1, idle_policy=1, seed=7,
            create_time=now - created_s_ago, update_time=now, expire_time=now + 60, gateway=self.name,
        )  # fmt: skip
        ledger = self.ledger(record)
        await ledger.admit()
        stages = self.stages(ledger)
        journal = Journal(self.graph, agreed.session, ledger.attempt, stages.protect)
        form = VoiceFormat(RATE, 1, "s16le")
        live = LiveSession(agreed, form, stages, ledger, self.limits, self.ended.append, journal)
        self.live.append(live)
        live.start(PORTRAIT)
        return live

    async def resume(self, session: str, frame: int) -> LiveSession:
        """As the Gateway does for a session that is not there."""
        ledger = self.ledger(await self.store.get(session, "t"))
        await ledger.attach()
        live = await take_over(ledger, self.graph, self.stages, self.limits, self.ended.append, frame)
        self.live.append(live)
        return live


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
    for live in pair.one.live + pair.two.live:
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
    again = await pair.two.resume("s", seen)
    assert 0 < again.next_sequence <= again.next_request < len(pair.requests)
    second = Stream(again, again.attach())
    pair.say(again)
    await second.end()
    assert contents(first, second) == contents(expected)
    assert expected.sound.endswith(second.sound)
    migrated = next(m.event for m in second.received if m.event.type == pb.EVENT_TYPE_MIGRATED)
    assert migrated.message.startswith("another gateway took over after")
    assert migrated.pts_us == seen * 1_000_000 // FPS
    async with asyncio.timeout(5):
        while (record := await pair.two.store.get("s", "t")).state is not SessionState.CLOSED:
            await asyncio.sleep(0.02)
    assert (record.gateway, record.frame) == ("gateway-2", len(expected.frames))
    assert all(pair.graph.holder(part) is None for part in Part)
    assert pair.graph.shelf is not None
    assert "s" not in pair.graph.shelf.sessions


async def test_a_gateway_that_lives_lets_go_of_what_was_taken_and_closes_nothing(pair: Pair) -> None:
    expected = await pair.whole()
    live = await pair.one.begin()
    first = Stream.open(live, acks=False)
    await first.ready()
    pair.say(live)
    await first.until(lambda: len(first.frames) > 50)
    again = await pair.two.resume("s", 50)
    second = Stream(again, again.attach())
    pair.say(again)
    await first.fails("SESSION_TAKEN_OVER")
    async with asyncio.timeout(5):
        while live not in pair.one.ended:
            await asyncio.sleep(0.02)
    assert await second.until(lambda: len(second.frames) > 60) is None
    record = await pair.two.store.get("s", "t")
    assert (record.gateway, record.state.ended) == ("gateway-2", False)
    await second.end()
    assert contents(second) == contents(expected)[50:]
    # And it is told nothing but that: late words of its own reach nobody.
    with pytest.raises(ServiceError, match="SESSION_TAKEN_OVER"):
        await live.ledger.make_sure()


async def test_a_session_may_come_back_to_where_it_was(pair: Pair) -> None:
    expected = await pair.whole()
    live = await pair.one.begin()
    streams = [await pair.watched(live, 30)]
    for gateway in (pair.two, pair.one, pair.two):
        await streams[-1].lose()
        live = await gateway.resume("s", sum(len(stream.frames) for stream in streams))
        streams.append(Stream(live, live.attach()))
        pair.say(live)
        if gateway is not pair.two or len(streams) == 2:
            await streams[-1].until(lambda: len(streams[-1].frames) >= 40)
    await streams[-1].end()
    assert contents(*streams) == contents(expected)


async def test_who_cannot_go_on_with_a_session_leaves_it_where_it_is(pair: Pair) -> None:
    live = await pair.one.begin()
    stream = await pair.watched(live, 30)
    await fails(pair.two.resume("s", 5000), "RESUME_FRAME_UNAVAILABLE")
    shelf, pair.graph.shelf = pair.graph.shelf, Shelf(1 << 26, 1e9)
    await fails(pair.two.resume("s", 30), "SESSION_LOST")
    pair.graph.shelf = shelf
    await stream.end()
    assert (await pair.one.store.get("s", "t")).gateway == "gateway-1"
    assert stream.events[-1] == pb.EVENT_TYPE_CLOSED


async def test_a_lapsed_lease_that_nobody_took_is_taken_back(pair: Pair, database: Database) -> None:
    live = await pair.one.begin()
    stream = await pair.watched(live, 30)
    before = live.ledger.record.token
    await database.call(database.client.delete(database.key("session", "s", "lease")))
    async with asyncio.timeout(5):
        while live.ledger.record.token == before:
            await asyncio.sleep(0.02)
    await stream.end()
    assert (await pair.one.store.get("s", "t")).frame == len(stream.frames)


async def test_a_part_that_was_lost_is_not_placed_by_who_has_the_session_no_more(pair: Pair) -> None:
    live = await pair.one.begin()
    stream = Stream.open(live, acks=False)
    await stream.ready()
    pair.say(live)
    await stream.until(lambda: len(stream.frames) > 60)
    # Its own way of finding out is slower than the loss.
    live.ledger._writer.cancel()  # type: ignore[union-attr]
    token = await pair.two.leases.acquire("s", "gateway-2", 10_000, take_over=True)
    opened, adopted = list(pair.graph.counts.opened), list(pair.graph.counts.adopted)
    pair.graph.kill(Part.DENOISER)
    pair.graph.kill(Part.DECODER)
    with pytest.raises(ServiceError, match="SESSION_TAKEN_OVER"):
        await live._stages.keep()
    assert (pair.graph.counts.opened, pair.graph.counts.adopted) == (opened, adopted)
    await pair.two.leases.release("s", token)
    await kill(live)


async def test_the_time_of_a_session_begins_with_its_first_gateway(pair: Pair) -> None:
    pair.two.limits = SessionLimits(max_duration_s=100.0)
    live = await pair.one.begin(created_s_ago=98.5)
    stream = await pair.watched(live, 30)
    await stream.lose()
    await kill(live)
    again = await pair.two.resume("s", 30)
    second = Stream(again, again.attach(), acks=False)
    assert pb.EVENT_TYPE_EXPIRING not in second.events
    await second.fails("SESSION_EXPIRED", within=10.0)
