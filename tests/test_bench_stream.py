"""`liveact bench stream`: the path that delays and loses, what a viewer takes down, and the same session in process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from avatar_fixtures import RATE, SIDE, PaintingStages, counting
from liveact.v1 import avatar_pb2 as pb
from liveact_services.cli.bench.stream.figures import Figures, Seen, bounds, overall
from liveact_services.cli.bench.stream.path import SEGMENT_BYTES, ShapedPath, Weather
from liveact_services.cli.bench.stream.viewer import Interrupt, Viewing, interrupting, speaking, watch
from liveact_services.client import AvatarClient
from liveact_services.gateway import deployment
from tenant_fixtures import picture, serving

pytest_plugins = ["session_fixtures", "tenant_fixtures"]


async def test_a_path_delays_every_segment_and_loses_or_swaps_none() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    sent = bytes(n % 251 for n in range(20 * SEGMENT_BYTES))
    async with server, ShapedPath(address, Weather(0.05, 0.02, 0.2), seed=1) as path:
        host, port = path.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        began = time.perf_counter()
        writer.write(sent[:1])
        assert await reader.readexactly(1) == sent[:1]
        assert time.perf_counter() - began >= 0.1
        writer.write(sent[1:])
        assert await reader.readexactly(len(sent) - 1) == sent[1:]
        # A fifth of the segments were lost: some came 200 ms late.
        assert time.perf_counter() - began >= 0.1 + 0.2
        writer.close()


def viewing(gaps: list[float], frames: int = 4, samples: int | None = None) -> Viewing:
    arrivals = [10.0]
    for gap in gaps:
        arrivals.append(arrivals[-1] + gap)
    counts = [frames] * len(arrivals)
    seen = Viewing(opened_at=9.0, ready_at=9.5, voice_at=9.5, first_frame_at=10.0, first_spoken_at=10.0)
    seen.arrivals, seen.counts, seen.playout_delay_s = arrivals, counts, 0.5
    seen.samples = sum(counts) * RATE // 20 if samples is None else samples
    return seen


def test_figures_tell_gaps_stalls_and_skew() -> None:
    smooth, rough = viewing([0.2] * 50), viewing([0.2] * 25 + [2.0] + [0.2] * 25)
    figures = overall([smooth, rough])
    assert (figures["gap_p50_ms"], figures["stalls"]) == (200.0, 1)
    assert figures["stall_s"] == pytest.approx(1.3)
    assert (figures["first_frame_ms"], figures["first_spoken_ms"], figures["skew_ms"]) == (1000.0, 500.0, 0.0)


def test_sound_apart_from_the_picture_and_late_interrupts_fail_the_run() -> None:
    weather = Weather(0, 0, 0)
    late = viewing([0.2], samples=8 * RATE // 20 + RATE // 10)
    late.interrupts = [Interrupt(1.0, 1.05, 4.0, 4.0, 4.0)]
    found = Figures(Seen([late], [late]), Seen([], []), weather, 1, 1, 32, 32).mistakes
    assert len(found) == 2
    assert "100 ms apart" in found[0]
    assert "3.00 s after" in found[1]
    good = viewing([0.2])
    assert Figures(Seen([good], []), Seen([], []), weather, 1, 1, 32, 32).mistakes == []
    assert bounds(late.interrupts)["sdk_picture_p95_ms"] == pytest.approx(50.0)


@pytest_asyncio.fixture
async def address(in_process: None, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> AsyncIterator[str]:
    monkeypatch.setattr(deployment, "serve_stages", lambda *_: PaintingStages())
    async with serving(redis_url) as gateway, ShapedPath(gateway.address, Weather(0.02, 0.02, 0.02), 3) as path:
        yield path.address


@pytest.mark.slow
async def test_a_viewer_takes_down_a_whole_session_behind_a_bad_path(address: str) -> None:
    seen = Viewing()
    seen.opened_at = time.perf_counter()
    async with AvatarClient(address) as client:
        raw = {"size": (SIDE, SIDE), "codec": pb.VIDEO_CODEC_RGB, "sample_rate_hz": RATE}
        async with client.session(picture(), **raw) as session:
            await watch(session, seen, speaking(counting(4.0)))
        assert seen.frames >= 80
        assert seen.skew_s == pytest.approx(0, abs=1e-6)
        assert min(seen.sound_lead_s) >= 0, "sound precedes its frames"
        assert seen.first_frame_at > seen.opened_at  # type: ignore[operator]
        stopped = Viewing()
        async with client.session(picture(), **raw) as session:
            await watch(session, stopped, interrupting(counting(8.0), 2, seed=1))
    assert len(stopped.interrupts) == 2
    for one in stopped.interrupts:
        assert one.asked <= one.seen <= one.plain_seen
        assert one.heard <= one.plain_heard
        assert one.plain_seen > one.asked, "a player that leaves nothing out shows old frames"
