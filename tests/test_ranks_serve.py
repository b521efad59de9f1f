"""A real service whose Denoiser has ranks, either way: its video is that of one rank, and no loss of a rank costs a frame."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import psutil
import pytest
import torch

from conftest import Service, pcm16, serving
from failover_fixtures import Watched, pids, reaches, until_replicas, watch
from liveact.v1 import avatar_pb2 as pb
from liveact_models.checkpoint import open_checkpoint
from liveact_models.pipeline import Pipeline
from liveact_models.timeline import block_frames
from liveact_models.voice import Voice, decode_pcm
from liveact_services.client import AvatarClient
from liveact_services.config import load_config
from test_service import RATE, session, speech

pytestmark = pytest.mark.slow

RANK_TIMEOUT_S = 4.0
SIDE = 64
KILLED_AFTER = block_frames(5).start
"""Frames that are there when a process is lost: past the first export."""


RANKS = {"sequence": 2, "steps": 3}


@pytest.fixture(scope="module", params=RANKS)
def parallel(request: pytest.FixtureRequest) -> str:
    """What the ranks share."""
    return request.param


@pytest.fixture(scope="module")
def ranks(parallel: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    denoiser = {"ranks": RANKS[parallel], "parallel": parallel, "rank_timeout_s": RANK_TIMEOUT_S}
    config = load_config(
        port=0, http_port=0, data_dir=tmp_path_factory.mktemp("ranks"), denoiser=denoiser,
        sessions={"max_utilisation": 1000},
    )  # fmt: skip
    with serving(config) as service:
        print(f"service with a Denoiser of {RANKS[parallel]} ranks up in {service.startup_s:.1f} s")
        yield service


def rank_pids() -> dict[int, int]:
    """The processes on this machine that are ranks, by rank."""
    titles = {process.pid: (process.info["cmdline"] or [""])[0] for process in psutil.process_iter(["cmdline"])}
    return {int(found[1]): pid for pid, title in titles.items() if (found := re.match(r"ray::Rank(\d+)", title))}


def asked(portrait: bytes, codec: pb.VideoCodec.ValueType) -> pb.SessionConfig:
    return session(portrait, width=SIDE, height=SIDE, codec=codec, seed=11, idle_policy=pb.IDLE_POLICY_HOLD)


def by_one_rank(portrait: bytes, voice: np.ndarray) -> np.ndarray:
    """The frames of one rank, [frames, side, side, 3]: a service of one rank gives these bytes (`test_service`)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        heard = Voice(decode_pcm(pcm16(voice), rate=RATE, channels=1, encoding="s16le"), RATE)
        blocks = Pipeline(open_checkpoint("shipped")).render(portrait, heard, width=SIDE, height=SIDE, seed=11)
        return np.concatenate([block.frames for block in blocks])
    finally:
        torch.set_num_threads(threads)


async def test_the_video_of_several_ranks_is_that_of_one_for_sessions_at_once(
    ranks: Service, parallel: str, portrait: bytes
) -> None:
    voice = speech(10.0, 3)
    async with AvatarClient(ranks.address) as client:
        sessions = [watch(client, asked(portrait, pb.VIDEO_CODEC_RGB), voice) for _ in range(3)]
        watched = await asyncio.gather(*sessions)
    assert len(rank_pids()) == RANKS[parallel]
    ours = by_one_rank(portrait, voice)
    for heard in watched:
        theirs = np.stack([np.frombuffer(frame.data, np.uint8).reshape(SIDE, SIDE, 3) for frame in heard.frames])
        assert heard.indices == list(range(len(ours)))
        apart = np.abs(theirs.astype(int) - ours)
        print(
            f"{len(ours)} frames: at most {apart.max()} of 255 apart, {100 * (apart > 0).mean():.3f} % of values differ"
        )
        # A step as a whole is made by one rank; shared by several, its sums have another order.
        assert apart.max() <= (0 if parallel == "steps" else 1)
    assert ours.std() > 10


LOSSES: dict[str, Callable[[], None]] = {
    "rank 1 killed": lambda: os.kill(rank_pids()[1], signal.SIGKILL),
    "coordinator killed": lambda: os.kill(next(iter(pids("Denoiser").values())), signal.SIGKILL),
    "rank 1 stopped": lambda: os.kill(rank_pids()[1], signal.SIGSTOP),
}


@pytest.mark.parametrize("loss", LOSSES)
async def test_a_lost_process_costs_a_session_no_frame(
    ranks: Service, parallel: str, portrait: bytes, loss: str
) -> None:
    voice, far = speech(30.0, 4), asyncio.Event()
    async with AvatarClient(ranks.address) as client, asyncio.timeout(200):
        undisturbed = await watch(client, asked(portrait, pb.VIDEO_CODEC_JPEG), voice)
        before = set(rank_pids().values())

        def seen(heard: Watched) -> None:
            if len(heard.frames) >= KILLED_AFTER:
                far.set()

        stream = asyncio.create_task(watch(client, asked(portrait, pb.VIDEO_CODEC_JPEG), voice, seen))
        await reaches(far, stream)
        assert not stream.done()
        began = time.monotonic()
        LOSSES[loss]()
        heard = await stream
    gap = max(b - a for a, b in pairwise(heard.came))
    await until_replicas("Denoiser", 1, ranks)
    print(f"{loss}: longest wait for a frame {gap:.1f} s; told {[m.message for m in heard.migrations()]}")
    assert heard.indices == list(range(len(undisturbed.frames)))
    assert heard.bytes == undisturbed.bytes
    np.testing.assert_array_equal(heard.sound(), undisturbed.sound())
    assert len(heard.migrations()) == 1
    assert before.isdisjoint(rank_pids().values()), "ranks of the lost group are left behind"
    assert len(rank_pids()) == RANKS[parallel]
    assert time.monotonic() - began < 120
