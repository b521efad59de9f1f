"""The idle policy LOOP on a real service: nothing is made while nobody speaks, and what is shown decodes without a seam."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import av
import psutil
import pytest

from conftest import Service, serving
from failover_fixtures import pids
from liveact.v1 import avatar_pb2 as pb
from liveact_models.timeline import block_frames
from liveact_services.client import AvatarClient, decode_frames
from liveact_services.config import load_config
from test_service import Heard, say, session, speech

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SPOKEN_S, IDLE_S = 3.0, 20.0
SETTLED_S = 10.0
"""After an utterance: its blocks, the one in which the mouth closes and the two of the clip are made."""
FPS, SIDE = 20, 128
STAGES = ("AudioEncoder", "Denoiser", "VaeDecoder")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    config = load_config(port=0, http_port=0, data_dir=tmp_path_factory.mktemp("loop"), checkpoint="untrained")
    with serving(config) as service:
        yield service


@dataclass
class Shown(Heard):
    """All that a stream said, when it came, and what its blocks cost."""

    chunks: list[pb.VideoChunk] = field(default_factory=list)
    came: list[float] = field(default_factory=list)
    idle_cpu_s: float = 0.0
    """Of the stages' processes, over a part of the first pause in which what is shown is settled."""
    idle: pb.Session | None = None
    """The record at the end of that part."""
    at: tuple[int, int] = (0, 0)
    """Frames that had come at its beginning and end."""

    def take(self, message: Any) -> None:
        super().take(message)
        if isinstance(message, pb.VideoChunk):
            self.chunks.append(message)
            self.came += [time.monotonic()] * len(message.frames)


def cpu_s() -> float:
    """CPU seconds of the stages that compute blocks."""
    times = [psutil.Process(pid).cpu_times() for stage in STAGES for pid in pids(stage).values()]
    return sum(t.user + t.system for t in times)


async def converse(client: AvatarClient, portrait: bytes, codec: Any, policy: Any) -> Shown:
    """Speak, pause, speak."""
    shown = Shown()
    config = session(portrait, pacing=pb.PACING_REALTIME, idle_policy=policy, codec=codec, width=SIDE, height=SIDE)
    async with client.stream(config) as stream:
        await stream.ready()

        async def talk() -> None:
            await say(stream, speech(SPOKEN_S, 1), "first")
            await asyncio.sleep(SPOKEN_S + SETTLED_S)
            began, first = cpu_s(), len(shown.frames)
            await asyncio.sleep(IDLE_S - SETTLED_S)
            shown.idle_cpu_s, shown.at = cpu_s() - began, (first, len(shown.frames))
            shown.idle = await client.get_session(stream.session.name)
            await say(stream, speech(SPOKEN_S, 2), "second")
            await asyncio.sleep(SPOKEN_S + 3.0)
            await stream.close()

        talking = asyncio.create_task(talk())
        async for message in stream:
            shown.take(message)
        await talking
    return shown


def made(shown: Shown) -> list[bool]:
    """Of each block, whether it was denoised."""
    costs: dict[int, int] = {}
    for chunk in shown.chunks:
        costs[chunk.block] = costs.get(chunk.block, 0) + chunk.times.denoise_us
    assert sorted(costs) == list(range(len(costs)))
    return [costs[block] > 0 for block in sorted(costs)]


@pytest.mark.parametrize("codec", [pb.VIDEO_CODEC_H264, pb.VIDEO_CODEC_JPEG], ids=["h264", "jpeg"])
async def test_a_pause_costs_nothing_and_shows_a_picture_without_a_seam(
    client: AvatarClient, portrait: bytes, codec: Any
) -> None:
    looped = await converse(client, portrait, codec, pb.IDLE_POLICY_LOOP)
    animated = await converse(client, portrait, codec, pb.IDLE_POLICY_ANIMATE)

    # One clock without a gap: every frame once, none late.
    assert [frame.index for frame in looped.frames] == list(range(len(looped.frames)))
    assert [frame.pts_us for frame in looped.frames] == [
        index * 1_000_000 // FPS for index in range(len(looped.frames))
    ]
    assert len(looped.sound()) == len(looped.frames) * 16000 // FPS
    paused = looped.at[1] - looped.at[0]
    assert paused == pytest.approx((IDLE_S - SETTLED_S) * FPS, abs=45)
    assert looped.idle is not None
    assert looped.idle.frames >= looped.at[1] - 2 * FPS, "the record counts what is shown again"

    # Speech, the mouth closing, the clip; then nothing is made for the whole pause; then speech again.
    blocks = made(looped)
    runs = [(was_made, len(list(run))) for was_made, run in itertools.groupby(blocks)]
    assert [was_made for was_made, _ in runs][:3] == [True, False, True], runs
    assert runs[1][1] * 32 >= (IDLE_S - SETTLED_S) * FPS, runs
    for first in looped.at[0] + 64, looped.at[1] - 64:
        block = next(b for b in range(len(blocks)) if first in block_frames(b))
        assert not blocks[block]
    assert all(made(animated))

    # Every block begins anew, and one decoder takes all of them in a row.
    starts = {block_frames(block).start for block in range(len(blocks))}
    assert {frame.index for frame in looped.frames if frame.key_frame} == starts & set(range(len(looped.frames)))
    pictures = decode_frames(looped.frames, pb.Session(width=SIDE, height=SIDE, fps=FPS, codec=codec))
    assert len(pictures) == len(looped.frames)
    if codec == pb.VIDEO_CODEC_H264:
        strict = av.CodecContext.create("h264", "r")
        strict.options = {"err_detect": "explode"}
        shown = [p for f in looped.frames for p in strict.decode(av.Packet(f.data))] + list(strict.decode(None))
        assert len(shown) == len(looped.frames)
        assert not any(picture.is_corrupt for picture in shown)

    seconds = (IDLE_S - SETTLED_S, looped.idle_cpu_s, animated.idle_cpu_s)
    ratio = looped.idle_cpu_s / animated.idle_cpu_s
    print(
        f"{pb.VideoCodec.Name(codec)}: CPU in %.0f s of a pause: LOOP %.2f s, ANIMATE %.2f s" % seconds,
        f"ratio {ratio:.3f}",
    )
    assert ratio < 0.5
