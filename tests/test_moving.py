"""A session leaves replicas that go, and a place it does not need: every frame once, with the bytes of an undisturbed run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graph_fixtures import ScriptedGraph, until
from liveact_models.timeline import block_frames
from liveact_services.conductor.moving import LOOK_S, MovingStages
from liveact_services.conductor.outputs import Video
from liveact_services.conductor.parts import Moved, Part
from liveact_services.conductor.resilient import Patience
from liveact_services.conductor.stages import Idle, Pacing
from liveact_services.errors import ServiceError
from liveact_services.vault.shelf import Shelf
from stage_fixtures import Performance, counted, in_virtual_time, session_spec
from test_resilient import (
    DECODER,
    DENOISER,
    LOSSES,
    PATIENCE,
    PORTRAIT,
    SPECS,
    Run,
    assert_same,
    perform,
    reached,
    when,
)


def moving(
    disturb: Callable[[ScriptedGraph], Awaitable[object]], pacing: Pacing = Pacing.FASTEST, **graph: object
) -> Run:
    async def main() -> Run:
        return await perform(ScriptedGraph(**graph), SPECS[pacing], disturb, kind=MovingStages)  # type: ignore[arg-type]

    return in_virtual_time(main())


def both_leave(graph: ScriptedGraph) -> None:
    for part in Part:
        graph.leave(part)


@pytest.mark.parametrize("pacing", list(Pacing))
@pytest.mark.parametrize("part", Part)
@pytest.mark.parametrize("block", [0, 2, 7])
def test_a_session_leaves_a_replica_and_nothing_is_made_twice(pacing: Pacing, part: Part, block: int) -> None:
    run = moving(when(reached(block), lambda graph: graph.leave(part)), pacing)
    assert_same(run, pacing)
    (moved,) = run.moves
    assert moved.parts == (part,)
    ((left, boundary),) = run.graph.counts.handed_over
    assert left == part
    assert moved.frame >= block_frames(boundary).start
    assert run.graph.counts.adopted == [(part, boundary)]
    made = list(range(len(set(run.graph.counts.denoised))))
    assert run.graph.counts.denoised == made
    assert run.graph.counts.decoded == made
    # One export, one adoption, and the ways between.
    assert 0.05 < moved.stall_s < 0.05 + 0.05 + 0.05


@pytest.mark.parametrize("pacing", list(Pacing))
def test_both_replicas_that_leave_at_once_are_left_one_after_the_other(pacing: Pacing) -> None:
    run = moving(when(reached(5), both_leave), pacing)
    assert_same(run, pacing)
    assert {moved.parts for moved in run.moves} == {(DENOISER,), (DECODER,)}
    assert run.graph.counts.opened == [DECODER, DENOISER]


@pytest.mark.parametrize("pacing", list(Pacing))
@pytest.mark.parametrize("block", [0, 2, 7])
def test_a_session_that_is_asked_away_goes_to_another_replica_and_that_one_stays(pacing: Pacing, block: int) -> None:
    run = moving(when(reached(block), lambda graph: graph.ask_away(DENOISER)), pacing)
    assert_same(run, pacing)
    (moved,) = run.moves
    assert moved.parts == (DENOISER,)
    assert moved.cause == "leaving"
    assert run.graph.counts.opened == [DECODER, DENOISER], "it goes on from an export"
    assert run.graph.counts.adopted == run.graph.counts.handed_over
    assert len(run.graph.replicas[DENOISER]) == 2


def test_a_session_that_is_asked_away_and_has_nowhere_to_go_stays() -> None:
    run = moving(when(reached(2), lambda graph: graph.ask_away(DENOISER)), replicas=1)
    assert_same(run, Pacing.FASTEST)
    assert run.moves == []
    assert [part for part, _ in run.graph.counts.handed_over] == [DENOISER], "it was asked once, and tried once"


def test_what_was_made_before_the_boundary_is_shown_while_the_session_moves() -> None:
    """A Vault that takes four seconds: the block at the decoder comes all the same."""
    shown: list[float] = []

    async def disturb(graph: ScriptedGraph) -> None:
        await until(lambda: 6 in graph.counts.denoised)
        graph.leave(DENOISER)
        await until(lambda: bool(graph.counts.handed_over))
        shown.append(max(graph.counts.decoded))

    run = moving(disturb, hand_over_s=4.0)
    assert_same(run, Pacing.FASTEST)
    assert shown[0] >= run.graph.counts.handed_over[0][1] - 1


@pytest.mark.parametrize("pacing", list(Pacing))
@pytest.mark.parametrize("part", Part)
def test_without_a_place_it_stays_and_goes_when_there_is_one(pacing: Pacing, part: Part) -> None:
    run = moving(when(reached(3), lambda graph: graph.leave(part)), pacing, replicas=1, restart_s=4.0)
    assert_same(run, pacing)
    (moved,) = run.moves
    assert moved.parts == (part,)
    assert len(run.graph.counts.handed_over) >= 2, "it tried, stayed, and tried again"
    assert run.graph.counts.opened == [DECODER, DENOISER]
    assert run.graph.counts.denoised == sorted(set(run.graph.counts.denoised)), "nothing was made twice"


@pytest.mark.parametrize("part", Part)
def test_a_replica_that_goes_before_there_is_a_place_is_recovered_from_as_one_that_died(part: Part) -> None:
    leave = when(reached(3), lambda graph: graph.leave(part, stays_s=2.0))
    run = moving(leave, Pacing.REALTIME, replicas=1, restart_s=4.0)
    assert_same(run, Pacing.REALTIME)
    assert [moved.parts for moved in run.moves] == [(part,)]


@pytest.mark.parametrize("part", Part)
def test_a_value_that_does_not_reach_the_vault_stays_where_it_is_until_one_does(part: Part) -> None:
    def leave(graph: ScriptedGraph) -> None:
        graph.unsaved = 2
        graph.leave(part)

    run = moving(when(reached(2), leave), Pacing.REALTIME)
    assert_same(run, Pacing.REALTIME)
    assert len(run.graph.counts.handed_over) == 3
    assert len(run.moves) == 1


@pytest.mark.parametrize("part", Part)
def test_a_replica_that_dies_while_it_hands_over_costs_no_frame(part: Part) -> None:
    async def disturb(graph: ScriptedGraph) -> None:
        await until(lambda: reached(5)(graph))
        graph.leave(part)
        at = graph.holder(part)
        assert at is not None
        await until(lambda: at.sessions["s"].order._attempt > 0, step=0.001)
        graph.kill(part)

    run = moving(disturb, hand_over_s=0.5)
    assert_same(run, Pacing.FASTEST)
    assert [moved.parts for moved in run.moves] == [(part,)]


DISTURBANCES: dict[str, Callable[[ScriptedGraph], object]] = {
    **LOSSES,
    "denoiser leaves": lambda graph: graph.leave(DENOISER),
    "decoder leaves": lambda graph: graph.leave(DECODER),
    "both leave": both_leave,
    "denoiser leaves soon": lambda graph: graph.leave(DENOISER, stays_s=1.0),
    "decoder leaves soon": lambda graph: graph.leave(DECODER, stays_s=1.0),
    "both leave soon": lambda graph: [graph.leave(part, stays_s=1.5) for part in Part],
    "no vault for one": lambda graph: setattr(graph, "unsaved", 1),
}


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    disturbances=st.lists(st.tuples(st.floats(0, 5), st.sampled_from(sorted(DISTURBANCES))), min_size=1, max_size=7),
    pacing=st.sampled_from(list(Pacing)),
    replicas=st.integers(1, 3),
    export_blocks=st.sampled_from([2, 3, 4]),
    hand_over_s=st.sampled_from([0.01, 0.3, 1.5]),
    objects_die=st.booleans(),
)
def test_whoever_leaves_or_is_lost_whenever_each_frame_comes_once_with_its_bytes(
    disturbances: list[tuple[float, str]],
    pacing: Pacing,
    replicas: int,
    export_blocks: int,
    hand_over_s: float,
    objects_die: bool,
) -> None:
    async def main() -> Run:
        graph = ScriptedGraph(
            replicas=replicas, export_blocks=export_blocks, objects_die=objects_die, restart_s=2.0, hand_over_s=hand_over_s
        )  # fmt: skip

        async def disturb(graph: ScriptedGraph) -> None:
            for wait, kind in disturbances:
                await asyncio.sleep(wait)
                DISTURBANCES[kind](graph)

        return await perform(graph, SPECS[pacing], disturb, patience=Patience(5.0, 300.0), kind=MovingStages)

    run = in_virtual_time(main())
    assert_same(run, pacing)
    assert not run.graph.counts.held, "a session that has ended holds nobody"


# ---- at rest


async def resting(
    graph: ScriptedGraph, then: Callable[[ScriptedGraph, MovingStages], Awaitable[object]], park_after_s: float | None
) -> tuple[list[tuple[int, bytes]], list[Moved]]:
    """Nine seconds of voice, half a minute of rest in which something happens, and nine seconds more."""
    spec = session_spec(Pacing.REALTIME, Idle.HOLD)
    stages = MovingStages(graph, PATIENCE, 4, park_after_s, now=asyncio.get_running_loop().time)
    moves: list[Moved] = []
    stages.listen(moves.append)
    await stages.open(spec, PORTRAIT)
    performance = Performance(spec, stages)  # type: ignore[arg-type]
    performance.conductor.hear("u", counted(9.0))
    performance.conductor.end_utterance("u")
    await asyncio.sleep(20)
    rested = len(performance.frames)
    await then(graph, stages)
    await asyncio.sleep(10)
    performance.conductor.hear("v", counted(9.0, first=200_000))
    await performance.end()
    await stages.close()
    frames = [(f.index, f.data) for _, o in performance.outputs if isinstance(o, Video) for f in o.part.frames]
    assert [index for index, _ in frames] == list(range(len(frames)))
    assert len(frames) > rested
    return frames, moves


async def nothing(graph: ScriptedGraph, stages: MovingStages) -> None:
    """Nothing happens."""


UNMOVED, _ = in_virtual_time(resting(ScriptedGraph(), nothing, None))


async def test_a_replica_is_held_while_the_session_is_there_and_not_after() -> None:
    graph = ScriptedGraph()
    stages = MovingStages(graph, PATIENCE, 4, now=asyncio.get_running_loop().time)
    await stages.open(session_spec(), PORTRAIT)
    await until(lambda: sorted(graph.counts.held) == sorted(stages.replicas))
    await stages.close()
    await until(lambda: not graph.counts.held)


@pytest.mark.parametrize("parts", [(DENOISER,), (DECODER,), tuple(Part)])
def test_a_resting_session_leaves_within_a_second(parts: tuple[Part, ...]) -> None:
    async def leave(graph: ScriptedGraph, stages: MovingStages) -> None:
        before, now = stages.replicas, asyncio.get_running_loop().time
        for part in parts:
            graph.leave(part)
        since = now()
        left = {name for name, part in zip(before, (DENOISER, DECODER), strict=True) if part in parts}
        await until(lambda: not left & set(stages.replicas))
        assert now() - since < 2 * LOOK_S

    frames, moves = in_virtual_time(resting(ScriptedGraph(), leave, None))
    assert frames == UNMOVED
    assert sorted(part for moved in moves for part in moved.parts) == sorted(parts)


@pytest.mark.parametrize("part", Part)
def test_a_resting_session_notices_at_once_that_its_replica_died(part: Part) -> None:
    async def die(graph: ScriptedGraph, stages: MovingStages) -> None:
        before, now = stages.replicas, asyncio.get_running_loop().time
        graph.kill(part)
        since = now()
        await until(lambda: all(stages.replicas) and stages.replicas != before)
        assert now() - since < 1

    frames, moves = in_virtual_time(resting(ScriptedGraph(), die, None))
    assert frames == UNMOVED
    assert [moved.parts for moved in moves] == [(part,)]


def test_a_resting_session_of_which_the_vault_has_lost_everything_is_put_there_again() -> None:
    async def lose(graph: ScriptedGraph, stages: MovingStages) -> None:
        graph.shelf = Shelf(1 << 20, 1e9)
        await stages.keep()
        assert all(graph.shelf.blocks("s", part) for part in Part)
        handed_over = len(graph.counts.handed_over)
        await stages.keep()
        assert len(graph.counts.handed_over) == handed_over == 2, "once is enough"
        for part in Part:
            graph.kill(part)

    frames, moves = in_virtual_time(resting(ScriptedGraph(), lose, None))
    assert frames == UNMOVED
    assert {part for moved in moves for part in moved.parts} == set(Part)


# ---- parking


async def parked(graph: ScriptedGraph, stages: MovingStages) -> None:
    assert stages.parked
    assert graph.holder(DENOISER) is None, "its place is free"
    assert graph.holder(DECODER) is not None


def test_a_session_at_rest_gives_its_place_back_and_goes_on_bit_for_bit() -> None:
    frames, moves = in_virtual_time(resting(ScriptedGraph(), parked, 5.0))
    assert frames == UNMOVED
    assert [moved.parts for moved in moves] == [(DENOISER,)]


def test_a_parked_session_survives_the_loss_and_the_leaving_of_its_decoder() -> None:
    async def lose(graph: ScriptedGraph, stages: MovingStages) -> None:
        await parked(graph, stages)
        graph.leave(DECODER)
        await asyncio.sleep(3)
        assert stages.parked
        graph.kill(DECODER)

    frames, _ = in_virtual_time(resting(ScriptedGraph(), lose, 5.0))
    assert frames == UNMOVED


def test_a_parked_session_waits_for_a_place_and_is_lost_when_none_comes() -> None:
    async def fill(graph: ScriptedGraph, stages: MovingStages, *, for_s: float) -> None:
        await parked(graph, stages)
        graph.full = True
        asyncio.get_running_loop().call_later(for_s, setattr, graph, "full", False)

    frames, _ = in_virtual_time(resting(ScriptedGraph(), partial(fill, for_s=30), 5.0))
    assert frames == UNMOVED
    with pytest.raises(ServiceError) as raised:
        in_virtual_time(resting(ScriptedGraph(), partial(fill, for_s=1000), 5.0))
    assert raised.value.reason == "SESSION_LOST"


def test_a_session_that_speaks_or_whose_value_is_not_kept_is_not_parked() -> None:
    async def unsaved(graph: ScriptedGraph, stages: MovingStages) -> None:
        assert not stages.parked
        assert graph.holder(DENOISER) is not None
        assert len(graph.counts.handed_over) >= 2

    graph = ScriptedGraph()
    graph.unsaved = 1000
    frames, _ = in_virtual_time(resting(graph, unsaved, 5.0))
    assert frames == UNMOVED
    speaking = moving(when(reached(14), lambda graph: None), Pacing.REALTIME)
    assert not speaking.graph.counts.handed_over


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(pauses=st.lists(st.floats(0.5, 6.0), min_size=2, max_size=6), park_after_s=st.floats(0.05, 2.0))
def test_whenever_a_session_is_parked_and_spoken_to_it_goes_on_bit_for_bit(
    pauses: list[float], park_after_s: float
) -> None:
    async def main(after_s: float | None) -> list[tuple[int, bytes]]:
        graph, spec = ScriptedGraph(hand_over_s=0.4), session_spec(Pacing.FASTEST)
        stages = MovingStages(graph, PATIENCE, 4, after_s, now=asyncio.get_running_loop().time)
        await stages.open(spec, PORTRAIT)
        performance = Performance(spec, stages)  # type: ignore[arg-type]
        for number, pause in enumerate(pauses):
            # One utterance: what a block is made of does not depend on when it is made.
            performance.conductor.hear("u", counted(3.2, first=1 + number * 100_000))
            await asyncio.sleep(pause)
        await performance.end()
        await stages.close()
        return [(f.index, f.data) for _, o in performance.outputs if isinstance(o, Video) for f in o.part.frames]

    assert in_virtual_time(main(park_after_s)) == in_virtual_time(main(None))
