"""Replicas of a real service are killed while sessions stream: every frame comes once, with the bytes of an undisturbed run."""

from __future__ import annotations

import asyncio
from functools import partial

import numpy as np
import pytest

from conftest import Service
from failover_fixtures import Watched, configs, kill, pids, reaches, record, undisturbed, until_replicas, watch
from liveact_models.timeline import block_frames
from liveact_services.client import AvatarClient
from test_service import speech

KILLED_AFTER = block_frames(6).start
"""Frames of both sessions that are there when the killing begins: past the first export."""


@pytest.fixture(scope="module")
def voices() -> tuple[np.ndarray, np.ndarray]:
    return speech(40.0, 1), speech(24.0, 2)


@pytest.fixture(scope="module")
async def expected(
    client: AvatarClient, portrait: bytes, voices: tuple[np.ndarray, np.ndarray]
) -> tuple[Watched, Watched]:
    return await undisturbed(client, portrait, voices)


@pytest.mark.slow
@pytest.mark.parametrize("deployment", ["Denoiser", "VaeDecoder", "AudioEncoder"])
async def test_a_killed_replica_costs_two_streams_no_frame_and_no_byte(
    service: Service,
    client: AvatarClient,
    portrait: bytes,
    voices: tuple[np.ndarray, np.ndarray],
    expected: tuple[Watched, Watched],
    deployment: str,
) -> None:
    replicas = len(pids(deployment))
    fastest, realtime = configs(portrait)
    far: dict[str, asyncio.Event] = {"realtime": asyncio.Event(), "fastest": asyncio.Event()}
    names: dict[str, str] = {}

    def seen(pacing: str, heard: Watched) -> None:
        names[pacing] = heard.name
        if len(heard.frames) >= KILLED_AFTER:
            far[pacing].set()

    async with asyncio.timeout(280):
        second = asyncio.create_task(watch(client, realtime, voices[1], partial(seen, "realtime")))
        await reaches(far["realtime"], second)
        first = asyncio.create_task(watch(client, fastest, voices[0], partial(seen, "fastest")))
        await reaches(far["fastest"], first)
        before = {name: await record(service, name) for name in names.values()}
        # The replica that holds them; of a stage that holds nothing, the only one there is.
        held = {r.denoiser if deployment == "Denoiser" else r.decoder for r in before.values()}
        killed = kill(deployment, held.pop() if deployment != "AudioEncoder" else None)
        assert len(killed) == 1
        assert not first.done()
        assert not second.done()
        heard = await asyncio.gather(first, second)

    for got, wanted in zip(heard, expected, strict=True):
        assert got.indices == list(range(len(wanted.frames)))
        assert got.bytes == wanted.bytes
        np.testing.assert_array_equal(got.sound(), wanted.sound())
        moved, was, now = got.migrations(), before[got.name], await record(service, got.name)
        assert len(moved) == (killed[0] in (was.denoiser, was.decoder))
        assert killed[0] not in (now.denoiser, now.decoder)
        for event in moved:
            assert event.migrated.stall.ToTimedelta().total_seconds() > 0
            print(f"{deployment} killed: {event.message}")
    await until_replicas(deployment, replicas, service)
