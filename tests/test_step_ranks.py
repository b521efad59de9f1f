"""Three ranks, a diffusion step each, behind a Denoiser's verbs: bit for bit what one rank makes, several sessions at once."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import Service
from liveact_models.blob import StateError
from liveact_models.config import SamplingConfig
from liveact_models.engine import Engine
from liveact_models.memory import memory_bytes
from liveact_services.conductor.stages import SessionSpec
from liveact_services.config import DenoiserConfig, load_config
from liveact_services.denoiser.local_rank import LocalRank
from liveact_services.denoiser.step_ranks import StepRanks
from liveact_services.denoiser.turns import Turns
from liveact_services.observability.spans import read_spans
from liveact_services.placement.pins import ReplicaGone
from liveact_services.placement.rank_actors import RankFailed
from liveact_services.replica import Compute
from observability_fixtures import CLIENT, tracing_into
from stage_fixtures import session_spec
from test_rank_group import Ended, replicas_bundles
from test_turns import BLOCKS, CHECKPOINT, TEXT, conditions, features, performed

STAGE = DenoiserConfig(ranks=3, parallel="steps", rank_timeout_s=60)
CONFIG = load_config(checkpoint="untrained")
SESSIONS, LARGE = 6, 256
"""Sessions and picture size where a step takes long enough to be measured."""


@pytest.fixture(scope="module")
def ended() -> Ended:
    return Ended()


@pytest.fixture(scope="module")
def three(service: Service, ended: Ended) -> Iterator[StepRanks]:
    threads = torch.get_num_threads()
    # Sums are split by thread: the same bits need the same number.
    torch.set_num_threads(1)
    with replicas_bundles(3) as group:
        ranks = StepRanks(CONFIG, STAGE, CHECKPOINT.config, group, ended)
        yield ranks
        ranks.stop()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def one() -> LocalRank:
    return LocalRank(CHECKPOINT, CHECKPOINT.config.sampling, torch.device("cpu"), Engine())


@pytest.fixture
def turns(three: StepRanks) -> Turns:
    return Turns(three, Compute("three"))


def opened(ranks: StepRanks | LocalRank, name: str, seed: int = 7, side: int = 32) -> SessionSpec:
    spec = session_spec(session=name, seed=seed, width=side, height=side)
    start = conditions(seed)
    grid = np.resize(start.reference, (*start.reference.shape[:2], side // 8, side // 8))
    ranks.open(spec, dataclasses.replace(start, reference=grid))
    return spec


def same(ours: list[np.ndarray], theirs: list[np.ndarray]) -> bool:
    return len(ours) == len(theirs) and all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


async def test_four_sessions_at_once_are_what_one_rank_makes_and_go_between_the_two(
    three: StepRanks, turns: Turns, one: LocalRank
) -> None:
    alone = Turns(one, Compute("one"))
    seeds = (7, 8, 9, 10)
    expected = [await performed(alone, opened(one, f"s{seed}", seed)) for seed in seeds]
    specs = [opened(three, f"s{seed}", seed) for seed in seeds]
    # The last is background: nobody waits for its blocks.
    made = await asyncio.gather(*(performed(turns, spec, None if spec.seed == 10 else 5.0) for spec in specs))
    assert all(map(same, made, expected))
    for spec in specs:
        assert three.export(spec.session) == one.export(spec.session)
    # Away to one rank and back, a block at each.
    assert one.adopt(specs[0], three.export("s7")) == three.position("s7") == BLOCKS
    await alone.denoise(specs[0], BLOCKS, features(1), None, None)
    assert three.adopt(specs[0], one.export("s7")) == BLOCKS + 1
    both = [await t.denoise(specs[0], BLOCKS + 1, features(1), TEXT, None) for t in (turns, alone)]
    assert same([both[0].latents], [both[1].latents])
    assert three.export("s7") == one.export("s7")


async def test_steps_of_different_sessions_are_made_at_the_same_time_each_by_its_rank(
    three: StepRanks, turns: Turns, tmp_path: Path
) -> None:
    specs = [opened(three, f"at-once{number}", number) for number in range(4)]
    with tracing_into(tmp_path):
        await asyncio.gather(*(turns.denoise(spec, 0, features(0), None, None, CLIENT) for spec in specs))
    steps = [span for span in read_spans(tmp_path) if span.name == "step"]
    assert sorted(step.attributes["step"] for step in steps) == sorted([0, 1, 2] * 4)
    at_it = []
    for step in steps:
        (rank,) = step.children
        assert rank.attributes["rank"] == step.attributes["step"]
        at_it.append(rank)
    together = [(a, b) for a, b in combinations(at_it, 2) if a.began_s < b.ended_s and b.began_s < a.ended_s]
    assert together
    assert all(a.attributes["rank"] != b.attributes["rank"] for a, b in together), "a rank made two steps at once"


async def test_an_export_is_the_session_as_it_was_though_the_next_block_is_made_meanwhile(
    three: StepRanks, turns: Turns
) -> None:
    spec = opened(three, "s")
    await turns.denoise(spec, 0, features(0), None, None)
    now, later = three.export("s"), three.snapshot("s")
    await turns.denoise(spec, 1, features(1), None, None)
    assert later() == now != three.export("s")


@pytest.mark.parametrize("steps", range(4))
def test_a_block_given_up_after_any_step_leaves_the_session_as_it_was(
    three: StepRanks, one: LocalRank, steps: int
) -> None:
    spec = opened(three, f"given-up{steps}")
    made(three, spec, 0)
    before = three.export(spec.session)
    three.begin(spec.session, 1, features(1), TEXT)
    for _ in range(min(steps, 2)):
        assert three.advance(spec.session) is None
    if steps == 3:
        # Nobody asks for the last step; asking where the session stands is as good as giving the block up.
        assert three.position(spec.session) == 1
        with pytest.raises(ReplicaGone):
            three.advance(spec.session)
    else:
        three.give_up(spec.session)
    assert three.export(spec.session) == before
    one.adopt(spec, before)
    assert np.array_equal(made(three, spec, 1), made(one, spec, 1))
    assert three.export(spec.session) == one.export(spec.session)


def made(ranks: StepRanks | LocalRank, spec: SessionSpec, block: int) -> np.ndarray:
    ranks.begin(spec.session, block, features(block), None)
    while (denoised := ranks.advance(spec.session)) is None:
        pass
    return denoised.latents


async def test_a_caller_that_goes_away_and_a_session_that_begins_anew_leave_nothing_behind(
    three: StepRanks, turns: Turns, one: LocalRank
) -> None:
    spec = opened(three, "anew")
    start = three.export("anew")
    for wait_s in (0.0, 0.01, 0.03, 0.06):
        call = asyncio.create_task(turns.denoise(spec, 0, features(0), None, None))
        await asyncio.sleep(wait_s)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        if three.position("anew"):
            three.adopt(spec, start)
        assert three.export("anew") == start
    call = asyncio.create_task(turns.denoise(spec, 0, features(0), None, None))
    await asyncio.sleep(0.01)
    turns.send_away("anew")
    assert three.adopt(spec, start) == 0
    with pytest.raises(ReplicaGone):
        await call
    one.adopt(spec, start)
    ours = await turns.denoise(spec, 0, features(0), None, None)
    assert np.array_equal(ours.latents, made(one, spec, 0))
    assert three.export("anew") == one.export("anew")


async def test_what_cannot_be_is_refused_and_the_group_goes_on(
    three: StepRanks, turns: Turns, ended: Ended, one: LocalRank
) -> None:
    spec = opened(three, "refused", 9)
    with pytest.raises(ValueError, match="the session's next block is 0"):
        await turns.denoise(spec, 3, features(1), None, None)
    damaged = bytearray(three.export("refused"))
    damaged[-1] ^= 1
    with pytest.raises(StateError) as error:
        three.adopt(spec, bytes(damaged))
    assert error.value.reason == "STATE_CHECKSUM"
    with pytest.raises(StateError, match="denoised in 2 steps; accepted here are 3, one a rank"):
        three.adopt(spec, of_two_steps(spec))
    for ask in (three.position, three.steps):
        with pytest.raises(ReplicaGone):
            ask("nobody")
    with pytest.raises(ReplicaGone):
        three.snapshot("nobody")()
    three.close("refused")
    three.close("refused")
    three.give_up("refused")
    with pytest.raises(ReplicaGone):
        three.steps("refused")
    await turns.denoise(opened(three, "after"), 0, features(0), None, None)
    assert ended.why == []


def of_two_steps(spec: SessionSpec) -> bytes:
    """An export of the same session where blocks have two steps."""
    usual = CHECKPOINT.config.sampling
    sampling: SamplingConfig = dataclasses.replace(usual, timesteps=usual.timesteps[:2], skip_audio_steps=())
    other = LocalRank(CHECKPOINT, sampling, torch.device("cpu"), Engine())
    other.open(spec, conditions(spec.seed))
    return other.export(spec.session)


def test_a_ranks_memory_is_its_steps(three: StepRanks) -> None:
    spec = session_spec(session="wide", width=128, height=128)
    whole = memory_bytes(CHECKPOINT.config, 128, 128, torch.float32)
    assert three.memory_of(spec) == 2 * (whole // 3)
    assert three.room() == float("inf")
    assert three.lanes == 3
    assert len(set(three.pids)) == 3


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="several ranks need several cores")
async def test_more_sessions_are_denoised_a_second_than_by_one_rank(three: StepRanks, one: LocalRank) -> None:
    """As many more as there are cores, at best: each rank has one thread, as the one has."""
    took = {}
    for name, ranks in (("one", one), ("three", three)):
        turns = Turns(ranks, Compute(name))
        specs = [opened(ranks, f"{name}{seed}", seed, side=LARGE) for seed in range(SESSIONS)]
        await asyncio.gather(*(turns.denoise(spec, 0, features(0), None, None) for spec in specs))
        began = time.perf_counter()
        for block in (1, 2):
            await asyncio.gather(*(turns.denoise(spec, block, features(block), None, None) for spec in specs))
        took[name] = time.perf_counter() - began
        for spec in specs:
            ranks.close(spec.session)
    blocks = 2 * SESSIONS
    told = ", ".join(f"{name}: {blocks / seconds:.2f} blocks a second" for name, seconds in took.items())
    print(f"{SESSIONS} sessions of {LARGE}x{LARGE}, {told}, {took['one'] / took['three']:.2f} times as many")
    assert took["three"] < took["one"] / 1.3


def test_a_dead_rank_ends_the_group_though_nothing_is_asked_of_it(three: StepRanks, ended: Ended) -> None:
    """The last test of this group."""
    os.kill(three.pids[2], signal.SIGKILL)
    assert ended.happened.wait(20)
    assert "rank 2" in ended.why[0]
    with pytest.raises(RankFailed):
        three.room()
