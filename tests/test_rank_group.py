"""Two ranks in processes of their own behind a Denoiser's verbs: what one rank makes, refused alike, ended by any loss."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from conftest import Service
from liveact_models.blob import StateError
from liveact_models.config import ConfigError
from liveact_models.memory import memory_bytes
from liveact_services.config import DenoiserConfig, load_config
from liveact_services.denoiser.shared_ranks import SharedRanks
from liveact_services.denoiser.turns import Turns
from liveact_services.observability.spans import read_spans
from liveact_services.placement.pins import ReplicaGone
from liveact_services.placement.rank_actors import RankActors, RankFailed, rank_resources
from liveact_services.replica import Compute
from observability_fixtures import CLIENT, tracing_into
from stage_fixtures import session_spec
from test_pools import bound
from test_turns import BLOCKS, CHECKPOINT, TEXT, WatchedRank, features, opened, performed

STAGE = DenoiserConfig(ranks=2, rank_timeout_s=60)
CONFIG = load_config(checkpoint="untrained")
CLOSE = 1e-5


class Ended:
    """What a failed group comes to here: noted, in place of this process's end."""

    def __init__(self) -> None:
        self.why: list[str] = []
        self.happened = threading.Event()

    def __call__(self, ranks: RankActors, why: str) -> None:
        self.why.append(why)
        self.happened.set()


@contextmanager
def replicas_bundles(ranks: int = 2) -> Iterator[PlacementGroup]:
    """Where the ranks of one replica are, in the Ray of the running service."""
    resources = rank_resources(ranks, 0.1, 0)
    group = placement_group(resources["placement_group_bundles"], resources["placement_group_strategy"])
    assert group.wait(30)
    yield group
    remove_placement_group(group)


@pytest.fixture
def bundles(service: Service) -> Iterator[PlacementGroup]:
    with replicas_bundles() as group:
        yield group


@pytest.fixture(scope="module")
def ended() -> Ended:
    return Ended()


@pytest.fixture(scope="module")
def two(service: Service, ended: Ended) -> Iterator[SharedRanks]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with replicas_bundles() as group:
        ranks = SharedRanks(CONFIG, STAGE, CHECKPOINT.config, group, ended)
        yield ranks
        ranks.stop()
    torch.set_num_threads(threads)


def off(ours: list[np.ndarray], expected: list[np.ndarray]) -> float:
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(ours, expected, strict=True))


async def test_two_sessions_in_turns_are_what_one_rank_makes_and_go_between_the_two(two: SharedRanks) -> None:
    one = WatchedRank()
    alone = Turns(one, Compute("one"))
    expected = [await performed(alone, opened(one, f"s{seed}", seed)) for seed in (7, 8)]
    turns = Turns(two, Compute("two"))
    specs = [opened(two, f"s{seed}", seed) for seed in (7, 8)]  # type: ignore[arg-type]
    made = await asyncio.gather(*(performed(turns, spec) for spec in specs))
    for ours, theirs in zip(made, expected, strict=True):
        assert off(ours, theirs) <= CLOSE
    # Away to one rank and back, a block at each.
    exported = two.export("s7")
    assert len(exported) == len(one.export("s7"))
    assert one.adopt(specs[0], exported) == BLOCKS
    assert one.export("s7") == exported
    latents = [(await alone.denoise(specs[0], BLOCKS, features(1), None, None)).latents]
    assert two.adopt(specs[0], one.export("s7")) == two.position("s7") == BLOCKS + 1
    assert two.export("s7") == one.export("s7")
    both = [await t.denoise(specs[0], BLOCKS + 1, features(1), TEXT, None) for t in (turns, alone)]
    assert off([both[0].latents], [both[1].latents]) <= CLOSE
    assert np.isfinite(latents[0]).all()


async def test_an_export_is_the_session_as_it_was_though_the_next_block_is_made_meanwhile(two: SharedRanks) -> None:
    turns, spec = Turns(two, Compute("two")), opened(two, "s")  # type: ignore[arg-type]
    await turns.denoise(spec, 0, features(0), None, None)
    now, later = two.export("s"), two.snapshot("s")
    await turns.denoise(spec, 1, features(1), None, None)
    assert later() == now != two.export("s")


async def test_a_traced_step_tells_when_each_rank_was_at_it(two: SharedRanks, tmp_path: Path) -> None:
    turns, spec = Turns(two, Compute("two")), opened(two, "traced")  # type: ignore[arg-type]
    with tracing_into(tmp_path):
        await turns.denoise(spec, 0, features(0), None, None, CLIENT)
    steps = [span for span in read_spans(tmp_path) if span.name == "step"]
    assert len(steps) == 3
    for step in steps:
        # In either order: they begin together, and each tells its own times.
        assert {(child.name, child.attributes["rank"]) for child in step.children} == {("rank", 0), ("rank", 1)}
        for child in step.children:
            assert step.began_s - 0.001 <= child.began_s < child.ended_s <= step.ended_s + 0.001


async def test_what_one_rank_refuses_the_group_refuses_and_goes_on(two: SharedRanks, ended: Ended) -> None:
    turns, spec = Turns(two, Compute("two")), opened(two, "refused", 9)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the session's next block is 0"):
        await turns.denoise(spec, 3, features(1), None, None)
    damaged = bytearray(two.export("refused"))
    damaged[-1] ^= 1
    with pytest.raises(StateError) as error:
        two.adopt(spec, bytes(damaged))
    assert error.value.reason == "STATE_CHECKSUM"
    with pytest.raises(ReplicaGone):
        two.position("nobody")
    with pytest.raises(ReplicaGone):
        two.snapshot("nobody")()
    two.close("refused")
    with pytest.raises(ReplicaGone):
        two.steps("refused")
    await turns.denoise(opened(two, "after"), 0, features(0), None, None)  # type: ignore[arg-type]
    assert ended.why == []


def test_a_ranks_memory_is_counted_by_the_rank_that_holds_most_heads(two: SharedRanks) -> None:
    spec = session_spec(session="wide", width=128, height=128)
    whole = memory_bytes(CHECKPOINT.config, 128, 128, torch.float32)
    # Of three heads, one rank holds two.
    assert two.memory_of(spec) == 2 * (whole * 2 // 3)
    assert two.room() == float("inf")
    assert len(set(two.pids)) == 2


def test_a_dead_rank_ends_the_group_though_nothing_is_asked_of_it(two: SharedRanks, ended: Ended) -> None:
    """The last test of this group."""
    began = time.monotonic()
    os.kill(two.pids[1], signal.SIGKILL)
    assert ended.happened.wait(20)
    print(f"noticed after {time.monotonic() - began:.2f} s: {ended.why[0]}")
    assert "rank 1" in ended.why[0]
    with pytest.raises(RankFailed):
        two.room()
    assert len(ended.why) == 1, "a group ends once"


def worker_class() -> type:
    """What answers in a rank by a script. Made in a function, so that it travels whole: workers cannot import this file."""

    class Worker:
        def __init__(self, rank: int) -> None:
            self.rank = rank
            self.heard: list[int] = []

        def note(self, number: int) -> None:
            self.heard.append(number)

        def all_heard(self) -> list[int]:
            return self.heard

        def refuse(self, ranks: tuple[int, ...]) -> str:
            if self.rank in ranks:
                raise ValueError("not this")
            return "done"

        def sleep(self, rank: int) -> None:
            if self.rank == rank:
                time.sleep(60)

    return Worker


@pytest.fixture
def scripted(bundles: PlacementGroup) -> Iterator[tuple[RankActors, Ended]]:
    ended, worker = Ended(), worker_class()
    ranks = RankActors([partial(worker, rank) for rank in range(2)], bundles, 2.0, (ValueError,), ended)
    yield ranks, ended
    ranks.stop()


@pytest.mark.slow
def test_calls_from_many_threads_come_to_every_rank_in_one_order_and_disagreeing_ranks_end(
    scripted: tuple[RankActors, Ended],
) -> None:
    ranks, ended = scripted
    threads = [threading.Thread(target=_note, args=(ranks, start)) for start in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = ranks.call("all_heard")
    assert first == second
    assert sorted(first) == [*range(20), *range(100, 120), *range(200, 220)]
    assert ranks.call("refuse", ()) == ["done", "done"]
    with pytest.raises(ValueError, match="not this"):
        ranks.call("refuse", (0, 1))
    assert ended.why == []
    with pytest.raises(RankFailed, match="disagree"):
        ranks.call("refuse", (1,))
    assert len(ended.why) == 1


def _note(ranks: RankActors, start: int) -> None:
    for number in range(start, start + 20):
        ranks.call("note", number)


def test_a_rank_that_gives_no_answer_in_time_ends_the_group(scripted: tuple[RankActors, Ended]) -> None:
    ranks, ended = scripted
    began = time.monotonic()
    with pytest.raises(RankFailed, match=r"no answer to sleep in 2 s from ranks \[1\]"):
        ranks.call("sleep", 1)
    assert 1.9 < time.monotonic() - began < 10
    assert len(ended.why) == 1


@pytest.mark.slow
def test_what_keeps_a_rank_from_starting_is_told_as_it_is(bundles: PlacementGroup) -> None:
    def fails() -> None:
        raise ConfigError("no such device")

    makes = [partial(worker_class(), 0), fails]
    with pytest.raises(ConfigError, match="no such device"):
        RankActors(makes, bundles, 2.0)


# Configuration


def test_a_replica_of_two_ranks_takes_a_bundle_for_itself_and_one_for_each() -> None:
    config = load_config(checkpoint="untrained", denoiser={"ranks": 2, "num_gpus": 1, "num_cpus": 0.5})
    deployment: Any = bound(config)["Denoiser"]
    replica = deployment._replica_config
    assert replica.placement_group_bundles == [{"CPU": 0.5}, {"CPU": 0.5, "GPU": 1}, {"CPU": 0.5, "GPU": 1}]
    assert replica.placement_group_strategy == "STRICT_PACK"
    assert replica.ray_actor_options.get("num_gpus", 0) == 0
    assert bound(load_config(checkpoint="untrained"))["Denoiser"]._replica_config.placement_group_bundles is None


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"denoiser": {"ranks": 4}}, "denoiser.ranks 4: preset tiny has 3 attention heads; accepted are 1 to 3"),
        ({"pools": {"gold": {"ranks": 5}}}, "pools.gold.ranks 5: preset tiny has 3 attention heads"),
        ({"denoiser": {"ranks": 0}}, "denoiser.ranks"),
        ({"denoiser": {"ranks": 2, "num_gpus": 0.5}}, "num_gpus 0.5 with 2 ranks: accepted for each rank are 0 and 1"),
        ({"denoiser": {"exchange": "int8"}}, "denoiser.exchange"),
        ({"denoiser": {"parallel": "layers"}}, "denoiser.parallel"),
        ({"denoiser": {"parallel": "steps", "ranks": 2}}, "denoiser.parallel steps with 2 ranks.*accepted are 3 ranks"),
        ({"pools": {"gold": {"parallel": "steps"}}}, "pools.gold.parallel steps with 1 ranks"),
        ({"vae_decoder": {"ranks": 2}}, "vae_decoder.ranks"),
    ],
)
def test_ranks_that_cannot_be_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config(**settings)
    assert load_config(preset="soulx-liveact-18b", denoiser={"ranks": 5, "num_gpus": 1}).denoiser.ranks == 5
    assert load_config(denoiser={"ranks": 3, "parallel": "steps"}).denoiser.coordinates
