"""The device of a replica, with the real model: blocks interleaved step by step are what they are alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from liveact_models.checkpoint import open_checkpoint
from liveact_models.engine import Engine
from liveact_models.timeline import block_frames
from liveact_services.conductor.stages import Denoised, Features, SessionSpec
from liveact_services.denoiser.local_rank import LocalRank
from liveact_services.denoiser.rank import Conditions
from liveact_services.denoiser.turns import Turns
from liveact_services.observability.spans import read_spans
from liveact_services.placement.pins import ReplicaGone
from liveact_services.replica import Compute
from observability_fixtures import CLIENT, tracing_into
from stage_fixtures import session_spec

CHECKPOINT = open_checkpoint("untrained", "tiny")
MODEL = CHECKPOINT.config.transformer
BLOCKS = 3


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums are split by thread: the same bits need the same number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class WatchedRank(LocalRank):
    """The real rank; it notes whose steps it made, and fails when told to."""

    def __init__(self) -> None:
        super().__init__(CHECKPOINT, CHECKPOINT.config.sampling, torch.device("cpu"), Engine())
        self.made: list[str] = []
        self.fails_at: int | None = None

    def advance(self, session: str) -> Denoised | None:
        if len(self.made) == self.fails_at:
            self.fails_at = None
            raise RuntimeError("the device failed")
        self.made.append(session)
        return super().advance(session)


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def conditions(seed: int) -> Conditions:
    return Conditions(
        drawn(seed, 5, MODEL.text_dim), drawn(seed + 1, MODEL.clip_tokens, MODEL.clip_dim),
        drawn(seed + 2, MODEL.out_dim, 14, 4, 4),
    )  # fmt: skip


def features(block: int) -> Features:
    return Features(drawn(block, len(block_frames(block)) + 4, MODEL.audio_blocks, MODEL.audio_channels), 0.0)


TEXT = drawn(99, 7, MODEL.text_dim)


@pytest.fixture
def rank() -> WatchedRank:
    return WatchedRank()


@pytest.fixture
def turns(rank: WatchedRank) -> Turns:
    return Turns(rank, Compute("Denoiser"))


def opened(rank: LocalRank, name: str, seed: int = 7, **changes: str) -> SessionSpec:
    spec = session_spec(session=name, seed=seed, **changes)
    rank.open(spec, conditions(seed))
    return spec


async def performed(turns: Turns, spec: SessionSpec, due_in: float | None = 5.0) -> list[np.ndarray]:
    """Some blocks, the last with another prompt."""
    latents = []
    for block in range(BLOCKS):
        due = None if due_in is None else time.monotonic() + due_in
        text = TEXT if block == BLOCKS - 1 else None
        latents.append((await turns.denoise(spec, block, features(block), text, due)).latents)
    return latents


async def test_interleaved_blocks_are_what_they_are_alone_and_what_the_model_makes_at_once(
    rank: WatchedRank, turns: Turns
) -> None:
    alone = [await performed(turns, opened(rank, f"alone{seed}", seed)) for seed in (7, 8)]
    exports = [rank.export(f"alone{seed}") for seed in (7, 8)]
    rank.made.clear()
    together = await asyncio.gather(
        performed(turns, opened(rank, "a", 7)), performed(turns, opened(rank, "b", 8), None),
        performed(turns, opened(rank, "c", 7), 0.0),
    )  # fmt: skip
    # They did take turns within blocks.
    assert len(rank.made) == 3 * 3 * BLOCKS
    assert any(rank.made[at : at + 3] != [rank.made[at]] * 3 for at in range(0, len(rank.made), 3))
    for ours, expected in zip(together, (alone[0], alone[1], alone[0]), strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(ours, expected, strict=True))
    assert [rank.export(name) for name in ("a", "b", "c")] == [exports[0], exports[1], exports[0]]

    at_once = rank._denoiser
    start = conditions(7)
    state = at_once.open(
        width=32, height=32, fps=20, seed=7, text=torch.tensor(start.text), clip=torch.tensor(start.clip),
        reference=torch.tensor(start.reference),
    )  # fmt: skip
    for block in range(BLOCKS):
        if block == BLOCKS - 1:
            at_once.set_prompt(state, torch.tensor(TEXT), 1)
        latents = at_once.denoise(state, block, torch.tensor(features(block).array))
        assert np.array_equal(latents.numpy(), alone[0][block])
    assert state.export() == exports[0]


async def test_a_block_given_up_leaves_the_session_as_it_was(rank: WatchedRank, turns: Turns) -> None:
    spec = opened(rank, "s")
    await turns.denoise(spec, 0, features(0), None, None)
    before = rank.export("s")
    block = asyncio.create_task(turns.denoise(spec, 1, features(1), TEXT, None))
    while rank.made.count("s") < 4:
        await asyncio.sleep(0)
    block.cancel()
    with pytest.raises(asyncio.CancelledError):
        await block
    other = opened(rank, "other", 9)
    await turns.denoise(other, 0, features(0), None, None)
    assert rank.export("s") == before
    assert "s" not in rank._under_way
    again = await turns.denoise(spec, 1, features(1), TEXT, None)

    fresh = opened(rank, "fresh")
    await turns.denoise(fresh, 0, features(0), None, None)
    assert np.array_equal((await turns.denoise(fresh, 1, features(1), TEXT, None)).latents, again.latents)
    assert rank.export("fresh") == rank.export("s")


async def test_a_step_that_fails_fails_its_block_and_no_other(rank: WatchedRank, turns: Turns) -> None:
    failing, going_on = opened(rank, "failing"), opened(rank, "going on", 8)
    await turns.denoise(failing, 0, features(0), None, None)
    before = rank.export("failing")
    rank.fails_at = 4
    outcomes = await asyncio.gather(
        turns.denoise(failing, 1, features(1), None, time.monotonic() + 1), performed(turns, going_on, 60),
        return_exceptions=True,
    )  # fmt: skip
    assert isinstance(outcomes[0], RuntimeError)
    assert isinstance(outcomes[1], list)
    assert rank.export("failing") == before


async def test_a_more_urgent_block_comes_between_the_steps_of_one_under_way(rank: WatchedRank, turns: Turns) -> None:
    patient, urgent = opened(rank, "patient"), opened(rank, "urgent", 8)
    slow = asyncio.create_task(turns.denoise(patient, 0, features(0), None, time.monotonic() + 1000))
    while not rank.made:
        await asyncio.sleep(0)
    await turns.denoise(urgent, 0, features(0), None, time.monotonic() + 100)
    assert not slow.done()
    await slow
    assert rank.made.index("urgent") < 3
    assert rank.made[-1] == "patient"


async def test_a_session_closed_while_its_block_is_made_is_gone(rank: WatchedRank, turns: Turns) -> None:
    spec = opened(rank, "s")
    block = asyncio.create_task(turns.denoise(spec, 0, features(0), None, None))
    while not rank.made:
        await asyncio.sleep(0)
    rank.close("s")
    with pytest.raises(ReplicaGone):
        await block
    with pytest.raises(ReplicaGone):
        await turns.denoise(spec, 0, features(0), None, None)


async def test_what_blocks_take_is_measured(rank: WatchedRank, turns: Turns) -> None:
    spec = opened(rank, "s")
    assert turns.costs.block_s(32, 32) is None
    began = time.perf_counter()
    denoised = [await turns.denoise(spec, block, features(block), None, None) for block in range(2)]
    assert 0 < turns.costs.block_s(32, 32) < time.perf_counter() - began  # type: ignore[operator]
    assert denoised[1].denoise_s == pytest.approx(turns.costs.block_s(32, 32), rel=0.5)


async def test_a_traced_block_tells_its_steps_and_one_that_is_not_tells_nothing(
    rank: WatchedRank, turns: Turns, tmp_path: Path
) -> None:
    spec = opened(rank, "s")
    with tracing_into(tmp_path):
        await turns.denoise(spec, 0, features(0), None, None)
        await turns.denoise(spec, 1, features(1), None, None, CLIENT)
    steps = read_spans(tmp_path)
    assert [(step.name, step.attributes["step"], step.children) for step in steps] == [
        ("step", n, []) for n in range(3)
    ]
    assert all(first.ended_s <= second.began_s for first, second in pairwise(steps))


async def test_a_session_that_begins_anew_is_not_put_forward_by_a_block_of_what_it_was(
    rank: WatchedRank, turns: Turns
) -> None:
    expected = await performed(turns, opened(rank, "undisturbed"))
    spec = opened(rank, "a")
    for steps in (1, 2, 3):
        rank.made.clear()
        before = asyncio.create_task(turns.denoise(spec, 0, features(0), None, None))
        while len(rank.made) < steps:
            await asyncio.sleep(0)
        turns.send_away("a")
        await turns._lanes[0].compute.run(rank.open, spec, conditions(7))
        with pytest.raises(ReplicaGone, match="began anew"):
            await before
        assert rank.position("a") == 0
    found = await performed(turns, spec)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
