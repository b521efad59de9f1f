"""A session that outlives its streams: over the real stages of one process, its record in a real Valkey."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from liveact.v1 import avatar_pb2 as pb
from liveact_models.timeline import block_frames
from liveact_services.conductor.local import LocalModels, LocalStages
from liveact_services.conductor.parts import Moved, Part
from liveact_services.conductor.stages import Idle, Pacing, SessionSpec, Stages
from liveact_services.config import SessionLimits
from liveact_services.errors import ServiceError
from liveact_services.gateway.ledger import Ledger
from liveact_services.gateway.live_session import LiveSession
from liveact_services.gateway.requests import VoiceFormat
from liveact_services.sessions import (
    Database,
    Leases,
    SessionRecord,
    SessionState,
    SessionStore,
)
from liveact_services.sessions.names import new_id
from stage_fixtures import FPS, RATE, ScriptedStages, noise_portrait, session_spec

pytest_plugins = ["session_fixtures"]

READY, STREAMING, DETACHED, CLOSED, EXPIRED, FAILED = (
    SessionState.READY, SessionState.STREAMING, SessionState.DETACHED,
    SessionState.CLOSED, SessionState.EXPIRED, SessionState.FAILED,
)  # fmt: skip
PORTRAIT = noise_portrait()


def voice(seconds: float) -> bytes:
    """A tone as PCM_S16LE, never silent at both its ends."""
    tone = 8000 * np.cos(2 * np.pi * 220 * np.arange(round(seconds * RATE)) / RATE)
    return np.where(np.rint(tone) == 0, 1, np.rint(tone)).astype("<i2").tobytes()


class Host:
    """Begins sessions as the Gateway does, and ends those a test leaves."""

    def __init__(self, database: Database, models: LocalModels) -> None:
        self.store, self.leases, self.models = SessionStore(database), Leases(database), models
        self.live: list[LiveSession] = []
        self.ended: list[LiveSession] = []

    async def begin(
        self, stages: Stages | None = None, *, pacing: Pacing = Pacing.FASTEST, idle: Idle = Idle.ANIMATE, **limits: Any
    ) -> LiveSession:
        spec: SessionSpec = session_spec(pacing, idle, session=new_id())
        now = time.time()
        record = SessionRecord(
            id=spec.session, tenant="t", state=SessionState.ADMITTED, width=32, height=32, fps=FPS, sample_rate_hz=RATE,
            channels=1, encoding=1, codec=3, pacing=1, idle_policy=1, seed=7, create_time=now, update_time=now,
            expire_time=now + 60,
        )  # fmt: skip
        bounds = SessionLimits(**limits)
        ledger = Ledger(record, self.store, self.leases, "gateway-1", bounds)
        await ledger.admit()
        stages = stages or LocalStages(self.models)
        live = LiveSession(spec, VoiceFormat(RATE, 1, "s16le"), stages, ledger, bounds, self.ended.append)
        self.live.append(live)
        live.start(PORTRAIT)
        return live

    async def record(self, live: LiveSession) -> SessionRecord:
        return await self.store.get(live.spec.session, "t")

    async def reaches(self, live: LiveSession, state: SessionState, within: float = 5.0) -> SessionRecord:
        """The record, once it says so."""
        async with asyncio.timeout(within):
            while True:
                # A Redis that was away answers again when the connections to the old one are used up.
                with suppress(ServiceError):
                    if (record := await self.record(live)).state is state:
                        return record
                await asyncio.sleep(0.02)


@pytest_asyncio.fixture
async def host(database: Database, models: LocalModels) -> AsyncIterator[Host]:
    host = Host(database, models)
    yield host
    for live in host.live:
        await live.close()


class Stream:
    """The client's side of one stream: everything received, every frame acknowledged unless told not to."""

    def __init__(self, live: LiveSession, number: int, *, acks: bool = True) -> None:
        self.live, self.number, self.acks = live, number, acks
        self.received: list[pb.StreamAvatarResponse] = []
        self.changed = asyncio.Event()
        self.task = asyncio.create_task(self._read(live.messages()))

    @classmethod
    def open(cls, live: LiveSession, **options: Any) -> Stream:
        return cls(live, live.attach(), **options)

    async def _read(self, messages: AsyncIterator[pb.StreamAvatarResponse]) -> None:
        try:
            async for message in messages:
                self.received.append(message)
                self.changed.set()
                if message.HasField("video") and self.acks:
                    self.send(ack=pb.Ack(next_frame=message.video.frames[-1].index + 1))
        finally:
            self.live.detach(self.number)
            self.changed.set()

    def send(self, **payload: Any) -> None:
        self.live.handle(pb.StreamAvatarRequest(**payload))

    def say(self, data: bytes, *, sequence: int = 0, utterance: str = "u") -> None:
        self.send(audio=pb.AudioChunk(data=data, utterance_id=utterance, sequence=sequence))

    async def until(self, done: Callable[[], bool], within: float = 15.0) -> None:
        async with asyncio.timeout(within):
            while not done():
                self.changed.clear()
                assert not self.task.done(), self.task
                await self.changed.wait()

    async def ready(self) -> Stream:
        await self.until(lambda: pb.EVENT_TYPE_READY in self.events)
        return self

    async def end(self) -> Stream:
        await asyncio.wait_for(self.task, 20)
        return self

    async def lose(self) -> None:
        """The connection breaks."""
        await asyncio.sleep(0)
        self.task.cancel()
        await asyncio.wait([self.task])

    async def fails(self, reason: str, within: float = 5.0) -> None:
        with pytest.raises(ServiceError) as caught:
            await asyncio.wait_for(self.task, within)
        assert caught.value.reason == reason

    @property
    def frames(self) -> list[pb.VideoFrame]:
        return [frame for message in self.received for frame in message.video.frames]

    @property
    def events(self) -> list[int]:
        return [message.event.type for message in self.received if message.HasField("event")]

    @property
    def sound(self) -> bytes:
        return b"".join(message.audio.data for message in self.received if message.HasField("audio"))


async def spoken(live: LiveSession, seconds: float) -> Stream:
    """A stream in which so much voice was sent and close was asked for."""
    stream = await Stream.open(live).ready()
    stream.say(voice(seconds))
    stream.send(end_utterance=pb.EndUtterance(utterance_id="u"))
    stream.send(close=pb.Close())
    return stream


# ---- the whole way


async def test_a_voice_comes_back_with_its_frames_and_the_record_follows(host: Host) -> None:
    live = await host.begin()
    stream = await Stream.open(live).ready()
    await host.reaches(live, READY)
    stream.say(voice(3.0))
    await stream.until(lambda: bool(stream.frames))
    await host.reaches(live, STREAMING)
    stream.send(close=pb.Close())
    await stream.end()
    record = await host.reaches(live, CLOSED)
    assert (record.block, record.frame) == (3, block_frames(2).stop)
    assert [frame.index for frame in stream.frames] == list(range(block_frames(2).stop))
    assert stream.sound[: 3 * RATE * 2] == voice(3.0)
    assert not any(stream.sound[3 * RATE * 2 :])
    assert [frame.utterance_id for frame in stream.frames] == ["u"] * 60 + [""] * 25
    assert stream.events == [
        pb.EVENT_TYPE_READY, pb.EVENT_TYPE_SPEECH_STARTED, pb.EVENT_TYPE_SPEECH_ENDED, pb.EVENT_TYPE_CLOSED,
    ]  # fmt: skip
    assert host.ended == [live]


async def test_a_session_that_moved_tells_its_client_and_its_record(host: Host) -> None:
    stages = ScriptedStages()
    live = await host.begin(stages)
    stream = await Stream.open(live).ready()
    stages.replicas = ("denoiser-2", "decoder-1")
    stages.moved(Moved((Part.DENOISER,), block=3, frame=85, stall_s=2.5))
    await stream.until(lambda: pb.EVENT_TYPE_MIGRATED in stream.events)
    told = stream.received[-1].event
    assert (told.pts_us, told.block) == (85 * 50_000, 3)
    assert told.migrated.stall.ToTimedelta().total_seconds() == 2.5
    assert told.message == "another denoiser took over after 2.50 s"
    async with asyncio.timeout(5):
        while (await host.record(live)).denoiser != "denoiser-2":
            await asyncio.sleep(0.05)
    assert (await host.record(live)).decoder == "decoder-1"


async def test_close_before_ready_ends_without_a_frame(host: Host) -> None:
    live = await host.begin()
    stream = Stream.open(live)
    stream.send(close=pb.Close())
    await stream.end()
    assert not stream.frames
    await host.reaches(live, CLOSED)


# ---- requests out of place


@pytest.mark.parametrize(
    ("reason", "payload"),
    [
        ("NOT_READY", {"audio": pb.AudioChunk(data=voice(0.1), utterance_id="u")}),
        ("NOT_READY", {"end_utterance": pb.EndUtterance(utterance_id="u")}),
        ("NOT_READY", {"interrupt": pb.Interrupt()}),
        ("NOT_READY", {"update": pb.Update(prompt="x")}),
        ("CONFIG_REPEATED", {"config": pb.SessionConfig()}),
        ("PAYLOAD_MISSING", {}),
        ("ACK_BEYOND_SENT", {"ack": pb.Ack(next_frame=1)}),
    ],
)
async def test_what_comes_out_of_place_is_refused(host: Host, reason: str, payload: dict[str, Any]) -> None:
    live = await host.begin(ScriptedStages())
    with pytest.raises(ServiceError, match=reason):
        Stream.open(live).send(**payload)


async def test_pieces_of_voice_neither_miss_nor_repeat(host: Host) -> None:
    stream = await Stream.open(await host.begin(ScriptedStages())).ready()
    stream.say(voice(0.1))
    with pytest.raises(ServiceError, match="SEQUENCE_REPEATED"):
        stream.say(voice(0.1), sequence=0)
    with pytest.raises(ServiceError, match="SEQUENCE_GAP"):
        stream.say(voice(0.1), sequence=2)
    stream.say(voice(0.1), sequence=1)
    stream.send(close=pb.Close())
    with pytest.raises(ServiceError, match="SESSION_ENDED"):
        stream.say(voice(0.1), sequence=2)


# ---- streams that are lost


async def test_a_resumed_stream_gets_the_rest_exactly(host: Host) -> None:
    whole = await (await spoken(await host.begin(), 4.0)).end()
    live = await host.begin(credit_frames=64)
    first = await spoken(live, 4.0)
    await first.until(lambda: len(first.frames) > 25)
    await first.lose()
    await host.reaches(live, DETACHED)
    seen = len(first.frames)
    second = Stream(live, live.resume(seen))
    await host.reaches(live, STREAMING)
    await second.end()
    assert [(f.index, f.data) for f in first.frames + second.frames] == [(f.index, f.data) for f in whole.frames]
    # The sound of the block in which it broke off comes whole.
    assert whole.sound.endswith(second.sound)
    assert len(second.sound) >= (len(whole.frames) - seen) * RATE // FPS * 2
    assert second.events[-1] == pb.EVENT_TYPE_CLOSED
    await host.reaches(live, CLOSED)


async def test_a_stream_lost_at_the_very_end_can_still_be_resumed(host: Host) -> None:
    live = await host.begin(credit_frames=1000)
    stream = Stream.open(live, acks=False)
    await stream.ready()
    await stream.lose()
    stream.say(voice(2.0))
    stream.send(close=pb.Close())
    await asyncio.sleep(0.1)
    assert not live.over
    again = Stream(live, live.resume(0), acks=False)
    await again.until(lambda: len(again.frames) == block_frames(1).stop)
    # Not a single acknowledgement: everything is there for a third stream, the end included.
    await again.end()
    await host.reaches(live, CLOSED)


async def test_frames_that_were_sent_into_a_broken_stream_at_the_end_are_there_for_the_next(host: Host) -> None:
    live = await host.begin(ScriptedStages(denoise_s=0.05))
    stream = await Stream.open(live).ready()
    stream.say(voice(3.0))
    stream.send(close=pb.Close())
    await stream.until(lambda: len(stream.frames) > 21)
    # From here on nothing arrives, and the server cannot know.
    stream.acks, seen = False, len(stream.frames)
    await stream.until(lambda: len(stream.frames) == block_frames(2).stop)
    await asyncio.sleep(0.2)
    assert not live.over
    await stream.lose()
    again = await Stream(live, live.resume(seen)).end()
    assert [frame.index for frame in again.frames] == list(range(seen, block_frames(2).stop))
    assert again.events[-1] == pb.EVENT_TYPE_CLOSED
    await host.reaches(live, CLOSED)


async def test_a_client_that_acknowledges_no_more_is_not_waited_for_long(host: Host) -> None:
    live = await host.begin(ScriptedStages(denoise_s=0.05), ack_timeout_s=1.0)
    stream = await Stream.open(live).ready()
    stream.say(voice(3.0))
    stream.send(close=pb.Close())
    await stream.until(lambda: len(stream.frames) > 21)
    stream.acks = False
    await stream.end()
    assert stream.events[-1] == pb.EVENT_TYPE_CLOSED
    assert len(stream.frames) == block_frames(2).stop


async def test_a_stream_that_takes_over_ends_the_one_before(host: Host) -> None:
    live = await host.begin()
    first = await Stream.open(live).ready()
    first.say(voice(3.0))
    await first.until(lambda: len(first.frames) >= 21)
    number = live.resume(21)
    await first.fails("SESSION_TAKEN_OVER")
    second = Stream(live, number)
    second.send(close=pb.Close())
    await second.end()
    assert [frame.index for frame in second.frames] == list(range(21, block_frames(2).stop))
    record = await host.reaches(live, CLOSED)
    assert record.frame == block_frames(2).stop


async def test_a_client_that_only_ends_its_side_leaves_the_session_to_be_resumed(host: Host) -> None:
    live = await host.begin()
    stream = await Stream.open(live).ready()
    live.abandon(stream.number)
    await stream.fails("STREAM_NOT_CLOSED")
    await host.reaches(live, DETACHED)
    again = Stream(live, live.resume(0))
    again.send(close=pb.Close())
    await again.end()


async def test_a_detached_session_expires(host: Host) -> None:
    live = await host.begin(ScriptedStages(), detached_timeout_s=0.3)
    stream = await Stream.open(live).ready()
    await stream.lose()
    await host.reaches(live, DETACHED)
    await host.reaches(live, EXPIRED)
    with pytest.raises(ServiceError, match="SESSION_ENDED"):
        live.resume(0)


async def test_frames_made_while_detached_do_not_make_it_streaming(host: Host) -> None:
    live = await host.begin(ScriptedStages(denoise_s=0.3))
    stream = await Stream.open(live).ready()
    stream.say(voice(1.2))
    await asyncio.sleep(0.05)
    await stream.lose()
    await asyncio.sleep(0.8)
    assert live.conductor.delivered_frames == 21
    assert live.ledger.record.state is DETACHED
    Stream(live, live.resume(0))
    assert (await host.reaches(live, STREAMING)).frame == 21


# ---- timers


async def test_a_client_that_never_acknowledges_is_cut_off(host: Host) -> None:
    stages = ScriptedStages(0.01, 0.001)
    live = await host.begin(stages, ack_timeout_s=0.4, credit_frames=64)
    stream = await Stream.open(live, acks=False).ready()
    stream.say(voice(10.0))
    await stream.fails("ACK_TIMEOUT")
    assert len(stream.frames) == 53
    await host.reaches(live, FAILED)
    assert stages.closed


async def test_the_time_to_acknowledge_begins_when_the_credit_ends(host: Host) -> None:
    live = await host.begin(ScriptedStages(0.01, 0.001), ack_timeout_s=0.6, credit_frames=64)
    stream = await Stream.open(live, acks=False).ready()
    # Nothing to acknowledge for longer than the limit, then all credit at once.
    await asyncio.sleep(0.8)
    stream.say(voice(10.0))
    await asyncio.sleep(0.4)
    assert len(stream.frames) == 53
    stream.send(ack=pb.Ack(next_frame=53))
    await stream.until(lambda: len(stream.frames) == 117)


async def test_a_session_that_hears_nothing_expires(host: Host) -> None:
    live = await host.begin(ScriptedStages(), idle_timeout_s=0.4)
    stream = await Stream.open(live).ready()
    await stream.fails("SESSION_EXPIRED")
    await host.reaches(live, EXPIRED)


async def test_a_session_is_told_before_its_time_is_over(host: Host) -> None:
    live = await host.begin(ScriptedStages(), max_duration_s=0.8)
    stream = await Stream.open(live).ready()
    await stream.fails("SESSION_EXPIRED")
    assert pb.EVENT_TYPE_EXPIRING in stream.events


# ---- other ends


async def test_a_session_closed_from_outside_ends_its_stream_with_a_last_word(host: Host) -> None:
    live = await host.begin(pacing=Pacing.REALTIME)
    stream = await Stream.open(live).ready()
    await stream.until(lambda: len(stream.frames) > 5)
    await live.close()
    await stream.end()
    assert stream.received[-1].event.type == pb.EVENT_TYPE_CLOSED
    await host.reaches(live, CLOSED)
    # Its state on the rank is gone.
    with pytest.raises(Exception, match="not held here"):
        host.models.rank.export(live.spec.session)


async def test_the_failure_of_a_stage_ends_the_session_with_an_incident(host: Host) -> None:
    stages = ScriptedStages(0.01, fails_at=1)
    live = await host.begin(stages)
    stream = await Stream.open(live).ready()
    stream.say(voice(5.0))
    await stream.fails("INTERNAL")
    await host.reaches(live, FAILED)
    assert stages.closed
    assert host.ended == [live]


async def test_an_ended_session_leaves_no_task(host: Host) -> None:
    before = asyncio.all_tasks()
    live = await host.begin()
    await (await spoken(live, 1.0)).end()
    await host.reaches(live, CLOSED)
    await asyncio.sleep(0.4)
    assert not {task for task in asyncio.all_tasks() - before if "Connection" not in repr(task)}
