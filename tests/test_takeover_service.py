"""A client goes on at another Gateway, which had to or happened to: every frame once, with an undisturbed run's bytes.

The test has a service of its own, with two Gateways, and no other beside it: Ray is one a process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

import numpy as np
import pytest

from conftest import Service, pcm16, serving
from failover_fixtures import Watched, kill, record, until_replicas, watch
from liveact.v1 import avatar_pb2 as pb
from liveact_models.timeline import block_frames
from liveact_services.cli.bench.chaos.forwarder import Forwarder
from liveact_services.client import AvatarClient, AvatarStream
from liveact_services.config import load_config
from liveact_services.errors import ClientError
from resume_fixtures import played
from test_resume import assert_same, bytes_until_cut, conversation
from test_service import session, speech

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RESUMED_WITHIN_S = 60.0
Strike = Callable[[], Awaitable[None]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with two Gateways."""
    config = load_config(
        port=0, http_port=0, data_dir=tmp_path_factory.mktemp("pair"), checkpoint="untrained",
        gateway={"replicas": 2}, sessions={"max_utilisation": 1000, "detached_timeout_s": 120},
    )  # fmt: skip
    with serving(config) as service:
        yield service


class Talker:
    """A client that keeps what it sent, and sends again what a server that was lost had not kept."""

    def __init__(self, voice: np.ndarray) -> None:
        data, pieces = pcm16(voice), (6400, 2, 30000, 1234)
        self.requests: list[pb.StreamAvatarRequest] = []
        at = 0
        while at < len(data):
            piece = data[at : at + pieces[len(self.requests) % 4]]
            chunk = pb.AudioChunk(data=piece, utterance_id="a", sequence=len(self.requests))
            self.requests.append(pb.StreamAvatarRequest(audio=chunk))
            at += len(piece)
        self.requests.append(pb.StreamAvatarRequest(end_utterance=pb.EndUtterance(utterance_id="a")))
        self.heard = Watched()
        self.token = ""
        self.forgettable = 0
        self.stalls: list[float] = []
        self.asked_again: list[int] = []
        self.struck: float | None = None
        """When this stream's Gateway was killed."""
        self.lost: float | None = None
        """Since when a frame has been waited for."""

    async def say(self, stream: AvatarStream, first: int, pace_s: float) -> None:
        for request in self.requests[first:]:
            await stream.send(request)
            await asyncio.sleep(pace_s)
        await stream.close()

    async def watch(self, stream: AvatarStream, until: int, strike: Strike | None) -> None:
        """Take what comes until so many frames are there; with `strike`, do that then and take what still comes."""
        async for message in stream:
            if isinstance(message, pb.AudioSpan):
                self.forgettable = max(self.forgettable, message.next_request)
                if any(span.block == message.block for span in self.heard.spans):
                    continue
            self.heard.take(message)
            if self.lost is not None and isinstance(message, pb.VideoChunk):
                self.stalls.append(time.monotonic() - self.lost)
                self.lost = None
            if len(self.heard.frames) >= until:
                if strike is None:
                    return
                await strike()
                self.struck, strike = time.monotonic(), None

    async def begin(self, client: AvatarClient, config: pb.SessionConfig, until: int, strike: Strike | None) -> None:
        """The session's first stream."""
        async with client.stream(config, resume=False) as stream:
            await stream.ready()
            self.heard.name, self.token = stream.session.name, stream.session.resume_token
            await self.hold(stream, 0, until, strike)

    async def go_on(self, client: AvatarClient, until: int = 1 << 30, strike: Strike | None = None) -> None:
        """Resume with the token and the next frame, asking again while the proxy still sends to the one that has gone."""
        self.lost = began = self.struck or time.monotonic()
        while True:
            try:
                async with client.resume(self.token, len(self.heard.frames)) as stream:
                    first = stream.session.next_request
                    assert first >= self.forgettable
                    self.asked_again.append(len(self.requests) - first)
                    return await self.hold(stream, first, until, strike)
            except ClientError as error:
                if time.monotonic() - began > RESUMED_WITHIN_S:
                    raise
                print("resume again:", error)
                await asyncio.sleep(0.1)

    async def hold(self, stream: AvatarStream, first: int, until: int, strike: Strike | None) -> None:
        """One stream, to its end or its loss."""
        self.struck = None
        saying = asyncio.create_task(self.say(stream, first, 0.001))
        try:
            await self.watch(stream, until, strike)
        except ClientError as error:
            if self.struck is None:
                raise
            print(f"the stream ended {time.monotonic() - self.struck:.2f} s after the kill:", error)
        finally:
            saying.cancel()
            await asyncio.gather(saying, return_exceptions=True)


@pytest.mark.parametrize("codec", [pb.VIDEO_CODEC_JPEG, pb.VIDEO_CODEC_RGB])
async def test_a_killed_gateway_costs_no_frame_and_no_byte(
    pair: Service, portrait: bytes, codec: pb.VideoCodec
) -> None:
    voice = speech(24.0, 3)
    pacing = pb.PACING_REALTIME if codec == pb.VIDEO_CODEC_JPEG else pb.PACING_FASTEST
    config = session(portrait, codec=codec, seed=5, idle_policy=pb.IDLE_POLICY_HOLD, pacing=pacing)
    async with asyncio.timeout(280), AvatarClient(pair.address) as client:
        calm = pb.SessionConfig()
        calm.CopyFrom(config)
        calm.pacing = pb.PACING_FASTEST
        expected = await watch(client, calm, voice)
        talker = Talker(voice)
        killed: list[str] = []

        async def strike() -> None:
            held = (await record(pair, talker.heard.name)).gateway
            killed.extend(kill("Gateway", held))
            assert killed[-1] == held

        await talker.begin(client, config, block_frames(6).start + 5, strike)
        await talker.go_on(client, block_frames(11).start, strike)
        await talker.go_on(client)
        assert len(killed) == len(talker.stalls) == 2
        assert (await record(pair, talker.heard.name)).gateway not in killed
        for stall, again in zip(talker.stalls, talker.asked_again[-2:], strict=True):
            of = len(talker.requests)
            print(f"{pb.Pacing.Name(pacing)}: next frame {stall:.2f} s after the kill, {again} of {of} requests again")
        await until_replicas("Gateway", 2, pair)
    heard = talker.heard
    assert heard.indices == list(range(len(expected.frames)))
    assert heard.bytes == expected.bytes
    np.testing.assert_array_equal(heard.sound(), expected.sound())
    assert [event.message.split(" after")[0] for event in heard.migrations()] == ["another gateway took over"] * 2


@pytest.mark.timeout(900)
@pytest.mark.parametrize("pacing", [pb.PACING_FASTEST, pb.PACING_REALTIME])
async def test_fifty_cuts_cost_no_byte_whichever_gateway_the_client_comes_back_to(
    pair: Service, portrait: bytes, pacing: pb.Pacing
) -> None:
    """Both Gateways live: the one that had the session may still be writing when the other goes on with it."""
    script = conversation(5.0, 4.0, unheard=pacing == pb.PACING_FASTEST)
    config = session(portrait, codec=pb.VIDEO_CODEC_JPEG, seed=5, idle_policy=pb.IDLE_POLICY_HOLD, pacing=pacing)
    async with AvatarClient(pair.address) as client:
        config.avatar = (await client.create_avatar(config.image)).name
        undisturbed = await played(client, config, script)
    taken_over = 0
    async with Forwarder(pair.address, bytes_until_cut(11, 8_000, 200_000)) as forwarder:
        while forwarder.cuts < 50:
            async with AvatarClient(forwarder.address) as client:
                taken = await played(client, config, script)
            moves = [event for event in taken.events if event.type == pb.EVENT_TYPE_MIGRATED]
            taken_over += len(moves)
            taken.events = [event for event in taken.events if event not in moves]
            assert_same(taken, undisturbed)
    print(f"{pb.Pacing.Name(pacing)}: {forwarder.cuts} cuts, {taken_over} of them went on at the other Gateway")
    assert taken_over >= 10
