"""A session is taken off a Denoiser and goes on, there or elsewhere, as if it had stayed."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import numpy as np
import pytest

from liveact_models.blob import StateError
from liveact_models.checkpoint import open_checkpoint
from liveact_models.timeline import block_frames
from liveact_services import stateful
from liveact_services.conductor.parts import Part
from liveact_services.conductor.stages import Features, Pacing, SessionSpec
from liveact_services.config import ServiceConfig
from liveact_services.denoiser import admission, deployment, gathering
from liveact_services.denoiser.deployment import Denoiser
from liveact_services.placement.pins import ReplicaFull, ReplicaGone, Superseded
from liveact_services.vault.deployment import Vault
from stage_fixtures import session_spec

MODEL = open_checkpoint("untrained", "tiny").config.transformer
BLOCKS = 4


@pytest.fixture(autouse=True)
def _in_no_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (deployment, stateful):
        monkeypatch.setattr(module, "replica_id", lambda: "replica-1")
    HANDLE.vault = Vault(ServiceConfig())


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class VaultHandle:
    """A Vault of this process, called as a deployment handle is."""

    def __init__(self) -> None:
        self.vault = Vault(ServiceConfig())

    def options(self, **_: str) -> VaultHandle:
        return self

    @property
    def put(self) -> VaultHandle:
        return self

    async def remote(self, session: str, part: Part, block: int, export: bytes, attempt: int, trace: str) -> bool:
        return await self.vault.put(session, part, block, export, attempt, trace)


HANDLE = VaultHandle()


def denoiser(**sessions: Any) -> Denoiser:
    # However slow the machine is: sessions are counted here.
    config = ServiceConfig(checkpoint="untrained", sessions={"max_utilisation": 1000, **sessions})
    return Denoiser(config, vault=HANDLE)  # type: ignore[arg-type]


async def parked(replica: Denoiser, name: str = "s", attempt: int = 0) -> bytes:
    """Take a session at rest off the device: its value, with which another goes on."""
    boundary = await replica.hand_over(name, attempt)
    assert boundary.saved
    await replica.close(name)
    return await HANDLE.vault.get(name, Part.DENOISER, boundary.block)


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
    value = await parked(here)
    assert await here.sessions() == ["whole"]
    assert await there.adopt(spec, value) == "replica-1"
    parts.append(await made(there, 2))
    assert await here.adopt(spec, await parked(there)) == "replica-1"
    parts.append(await made(here, 3))
    assert all(np.array_equal(ours, expected) for ours, expected in zip(parts, whole, strict=True))
    assert await here.export("s") == await here.export("whole")
    assert await there.sessions() == []


async def test_a_session_before_its_first_block_can_be_parked_too() -> None:
    replica = denoiser()
    spec = await opened(replica)
    value = await parked(replica)
    await replica.adopt(spec, value)
    await opened(replica, "beside")
    assert np.array_equal(await made(replica, 0), await made(replica, 0, "beside"))


async def test_a_parked_session_is_gone_and_its_place_is_free() -> None:
    replica = denoiser(max_sessions=1)
    spec = await opened(replica)
    await made(replica, 0)
    value = await parked(replica)
    with pytest.raises(ReplicaGone):
        await made(replica, 1)
    with pytest.raises(ReplicaGone):
        await replica.hand_over("s", 2)
    with pytest.raises(ReplicaGone):
        replica._ranks.export("s")
    await opened(replica, "next")
    with pytest.raises(ReplicaFull):
        await replica.adopt(spec, value)
    await replica.close("next")
    await replica.adopt(spec, value)
    with pytest.raises(ValueError, match="the next is 1"):
        await made(replica, 0)
    await made(replica, 1)


async def test_a_block_that_is_being_made_is_finished_before_the_value_is_handed_over() -> None:
    replica = denoiser()
    await opened(replica)
    block = asyncio.create_task(made(replica, 0))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(made(replica, 1))
    await asyncio.sleep(0.01)
    boundary = await replica.hand_over("s", 1)
    assert (boundary.block, boundary.saved) == (1, True)
    await block
    with pytest.raises(Superseded):
        await waiting
    # It was not closed, and may go on here: calls of the new attempt are.
    rows = len(block_frames(1)) + 4
    features = Features(drawn(11, rows, MODEL.audio_blocks, MODEL.audio_channels), 0.0)
    assert (await replica.denoise("s", 1, features, None, attempt=1)).latents.shape == (MODEL.out_dim, 8, 4, 4)


async def test_without_a_vault_nothing_is_said_to_be_saved() -> None:
    replica = Denoiser(ServiceConfig(checkpoint="untrained"))
    await opened(replica)
    boundary = await replica.hand_over("s", 1)
    assert (boundary.block, boundary.saved) == (0, False)
    assert await replica.sessions() == ["s"]


async def test_a_session_that_went_elsewhere_says_nothing_of_how_long_sessions_last() -> None:
    replica = denoiser()
    await opened(replica, "moved")
    await opened(replica, "ended")
    await replica.hand_over("moved", 1)
    released: list[tuple[str, bool]] = []
    release = replica._admission.release

    def noting(session: str, ended: bool = True) -> None:
        released.append((session, ended))
        release(session, ended)

    replica._admission.release = noting  # type: ignore[method-assign]
    await replica.close("moved")
    await replica.close("ended")
    assert released == [("moved", False), ("ended", True)]


async def test_a_session_is_held_by_one_call_and_by_none_of_a_gateway_that_has_died(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stateful, "LOOK_S", 0.01)
    replica = denoiser()
    await opened(replica)
    first, second = replica.hold("s"), replica.hold("s")
    await anext(first)
    await anext(second)
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(anext(first), 1)
    last = asyncio.create_task(anext(second))
    await asyncio.sleep(0.05)
    assert not last.done()
    replica._sessions["s"].order.last_used -= stateful.UNASKED_S
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(last, 1)
    assert await replica.sessions() == ["s"], "another Gateway may come for it"


async def test_a_replica_asks_small_sessions_away_by_the_calls_that_hold_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "SETTLED_S", 0.0)
    replica = denoiser(max_utilisation=0.5)
    replica._turns.costs.record(128, 128, 0.4)
    small = await opened(replica)
    large = dataclasses.replace(small, session="large", width=256, height=128)
    places = [small.size] * gathering.PLACES
    beats = replica.hold("s")
    assert await anext(beats) is False
    asked = asyncio.create_task(anext(beats))
    assert await replica.make_room(large, [small.size, 0.0, 0.0, 0.0]) is None, "too few places elsewhere"
    assert await replica.make_room(dataclasses.replace(small, session="alike"), places) is None, "not for its like"
    await asyncio.sleep(0.01)
    assert not asked.done()
    assert await replica.make_room(large, places) == admission.GATHERED_S
    assert await asyncio.wait_for(asked, 1) is True
    await replica.drain()
    assert await replica.make_room(large, places) is None


async def test_a_replica_is_held_until_the_session_is_closed() -> None:
    replica = denoiser()
    await opened(replica)

    async def hold() -> None:
        async for _ in replica.hold("s"):
            pass

    holding = asyncio.create_task(hold())
    await asyncio.sleep(0.01)
    assert not holding.done()
    await replica.close("s")
    await asyncio.wait_for(holding, 1)
    with pytest.raises(ReplicaGone):
        await anext(replica.hold("s"))


async def test_a_damaged_export_is_refused_and_takes_no_place() -> None:
    replica = denoiser(max_sessions=1)
    spec = await opened(replica)
    value = await parked(replica)
    with pytest.raises(StateError):
        await replica.adopt(spec, value[:-1] + bytes([value[-1] ^ 1]))
    assert await replica.sessions() == []
    await replica.adopt(spec, value)
