"""A session at rest is taken off the device and goes on, here or elsewhere, as if it had stayed."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from liveact_models.blob import StateError
from liveact_models.checkpoint import open_checkpoint
from liveact_models.timeline import block_frames
from liveact_services import stateful
from liveact_services.conductor.stages import Features, Pacing, SessionSpec
from liveact_services.config import ServiceConfig
from liveact_services.denoiser import deployment
from liveact_services.denoiser.deployment import Denoiser
from liveact_services.placement.pins import ReplicaFull, ReplicaGone
from stage_fixtures import session_spec

MODEL = open_checkpoint("untrained", "tiny").config.transformer
BLOCKS = 4


@pytest.fixture(autouse=True)
def _in_no_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (deployment, stateful):
        monkeypatch.setattr(module, "replica_id", lambda: "replica-1")


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def denoiser(**sessions: Any) -> Denoiser:
    # However slow the machine is: sessions are counted here.
    return Denoiser(ServiceConfig(checkpoint="untrained", sessions={"max_utilisation": 1000, **sessions}))


async def opened(replica: Denoiser, name: str = "s") -> SessionSpec:
    spec = session_spec(Pacing.REALTIME, session=name)
    text, clip = drawn(1, 5, MODEL.text_dim), drawn(2, MODEL.clip_tokens, MODEL.clip_dim)
    await replica.open(spec, text, clip, drawn(3, MODEL.out_dim, 14, 4, 4))
    return spec


async def made(replica: Denoiser, block: int, name: str = "s") -> np.ndarray:
    rows = len(block_frames(block)) + 4
    features = Features(drawn(10 + block, rows, MODEL.audio_blocks, MODEL.audio_channels), 0.0)
    text = drawn(4, 6, MODEL.text_dim) if block == 1 else None
    return (await replica.denoise(name, block, features, text, due_s=1.0)).latents


async def test_a_parked_session_goes_on_bit_for_bit_wherever_it_is_adopted() -> None:
    here, there = denoiser(), denoiser()
    await opened(here, "whole")
    whole = [await made(here, block, "whole") for block in range(BLOCKS)]
    spec = await opened(here)
    parts = [await made(here, block) for block in range(2)]
    parked = await here.park("s")
    assert await here.sessions() == ["whole"]
    assert await there.adopt(spec, parked) == "replica-1"
    parts.append(await made(there, 2))
    assert await here.adopt(spec, await there.park("s")) == "replica-1"
    parts.append(await made(here, 3))
    assert all(np.array_equal(ours, expected) for ours, expected in zip(parts, whole, strict=True))
    assert await here.export("s") == await here.export("whole")
    assert await there.sessions() == []


async def test_a_session_before_its_first_block_can_be_parked_too() -> None:
    replica = denoiser()
    spec = await opened(replica)
    parked = await replica.park("s")
    await replica.adopt(spec, parked)
    await opened(replica, "beside")
    assert np.array_equal(await made(replica, 0), await made(replica, 0, "beside"))


async def test_a_parked_session_is_gone_and_its_place_is_free() -> None:
    replica = denoiser(max_sessions=1)
    spec = await opened(replica)
    await made(replica, 0)
    parked = await replica.park("s")
    with pytest.raises(ReplicaGone):
        await made(replica, 1)
    with pytest.raises(ReplicaGone):
        await replica.park("s")
    with pytest.raises(ReplicaGone):
        replica._ranks.export("s")
    await opened(replica, "next")
    with pytest.raises(ReplicaFull):
        await replica.adopt(spec, parked)
    await replica.close("next")
    await replica.adopt(spec, parked)
    with pytest.raises(ValueError, match="the next is 1"):
        await made(replica, 0)
    await made(replica, 1)


async def test_a_session_in_the_middle_of_a_block_is_not_parked_and_stays() -> None:
    replica = denoiser()
    await opened(replica)
    block = asyncio.create_task(made(replica, 0))
    await asyncio.sleep(0)
    with pytest.raises(ValueError, match="making a block"):
        await replica.park("s")
    await block
    assert (await made(replica, 1)).shape == (MODEL.out_dim, 8, 4, 4)


async def test_a_damaged_export_is_refused_and_takes_no_place() -> None:
    replica = denoiser(max_sessions=1)
    spec = await opened(replica)
    parked = await replica.park("s")
    with pytest.raises(StateError):
        await replica.adopt(spec, parked[:-1] + bytes([parked[-1] ^ 1]))
    assert await replica.sessions() == []
    await replica.adopt(spec, parked)


async def test_those_at_rest_are_named_once_they_have_rested_long_enough() -> None:
    replica = denoiser(park_after_s=1000)
    await opened(replica, "resting")
    await opened(replica, "working")
    await made(replica, 0, "resting")
    assert await replica.rested() == []
    for held in replica._sessions.values():
        held.order.last_made -= 2000
    await replica.keep("resting")
    await made(replica, 0, "working")
    assert await replica.rested() == ["resting"], "being asked for is no work"
    assert await denoiser().rested() == []
