"""A session goes on when what serves it is lost: every frame once, in order, with the bytes of an undisturbed run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graph_fixtures import ScriptedGraph, later, until
from liveact_models.timeline import block_frames
from liveact_services.conductor.outputs import Happening, Sound, Video
from liveact_services.conductor.parts import Moved, Part
from liveact_services.conductor.patience import Patience
from liveact_services.conductor.resilient import MAX_KEPT_BLOCKS, ResilientStages
from liveact_services.conductor.stages import Idle, Pacing, SessionSpec
from liveact_services.errors import ServiceError
from stage_fixtures import Performance, counted, in_virtual_time, session_spec

DENOISER, DECODER = Part.DENOISER, Part.DECODER
PORTRAIT = np.zeros((3, 32, 32), np.float32)
PATIENCE = Patience(stage_s=5.0, place_s=60.0)
VOICE_S = 24.0
"""15 blocks: several exports, and as many between them."""


@dataclass
class Run:
    """What came of one performance."""

    frames: list[tuple[int, bytes]]
    sound: np.ndarray
    told: list[tuple[Happening, int]]
    """Events but for what only a disturbance brings."""
    graph: ScriptedGraph
    moves: list[Moved] = field(default_factory=list)
    stages: ResilientStages | None = None


async def perform(
    graph: ScriptedGraph,
    spec: SessionSpec,
    disturb: Callable[[ScriptedGraph], Awaitable[object]] | None = None,
    *,
    patience: Patience = PATIENCE,
    voice_s: float = VOICE_S,
    kind: type[ResilientStages] = ResilientStages,
) -> Run:
    """One voice through a session, with two changes of prompt, while something happens to the graph."""
    loop = asyncio.get_running_loop()
    stages = kind(graph, patience, graph.export_blocks, now=loop.time)
    moves: list[Moved] = []
    stages.listen(moves.append)
    await stages.open(spec, PORTRAIT)
    performance = Performance(spec, stages)  # type: ignore[arg-type]
    disturbing = None if disturb is None else asyncio.ensure_future(disturb(graph))
    performance.conductor.update("She laughs.", 4.0)
    performance.conductor.update("He frowns.", 11.0)
    performance.conductor.hear("u", counted(voice_s))
    try:
        await performance.end()
    finally:
        performance.stop()
        if disturbing is not None:
            disturbing.cancel()
            await asyncio.gather(disturbing, return_exceptions=True)
        await stages.close()
    frames = [(f.index, f.data) for _, o in performance.outputs if isinstance(o, Video) for f in o.part.frames]
    told = [(event.kind, event.block) for event in performance.events() if event.kind is not Happening.UNDERRUN]
    return Run(frames, performance.sound, told, graph, moves, stages)


def undisturbed(spec: SessionSpec, **graph: float) -> Run:
    async def main() -> Run:
        return await perform(ScriptedGraph(**graph), spec)  # type: ignore[arg-type]

    return in_virtual_time(main())


SPECS = {pacing: session_spec(pacing, Idle.ANIMATE) for pacing in Pacing}
EXPECTED = {pacing: undisturbed(spec) for pacing, spec in SPECS.items()}


def assert_same(run: Run, pacing: Pacing) -> None:
    expected = EXPECTED[pacing]
    assert [index for index, _ in run.frames] == list(range(len(run.frames)))
    assert run.frames == expected.frames
    assert np.array_equal(run.sound, expected.sound)
    assert run.told == expected.told


def disturbed(
    disturb: Callable[[ScriptedGraph], Awaitable[object]], pacing: Pacing = Pacing.FASTEST, **graph: object
) -> Run:
    async def main() -> Run:
        return await perform(ScriptedGraph(**graph), SPECS[pacing], disturb)  # type: ignore[arg-type]

    return in_virtual_time(main())


def reached(block: int) -> Callable[[ScriptedGraph], bool]:
    return lambda graph: block in graph.counts.decoded


def when(
    condition: Callable[[ScriptedGraph], bool], what: Callable[[ScriptedGraph], object]
) -> Callable[[ScriptedGraph], Awaitable[object]]:
    async def disturb(graph: ScriptedGraph) -> None:
        await until(lambda: condition(graph))
        what(graph)

    return disturb


# ---- what is lost once


@pytest.mark.parametrize("pacing", Pacing)
@pytest.mark.parametrize("part", Part)
@pytest.mark.parametrize("block", [0, 2, 6, 11])
def test_a_killed_replica_costs_no_frame(pacing: Pacing, part: Part, block: int) -> None:
    run = disturbed(when(reached(block), lambda graph: graph.kill(part)), pacing)
    assert_same(run, pacing)
    (moved,) = run.moves
    assert moved.parts == (part,)
    assert moved.stall_s > 0
    assert moved.block >= block


@pytest.mark.parametrize("part", Part)
def test_a_young_session_that_is_never_exported_begins_again(part: Part) -> None:
    run = disturbed(when(reached(6), lambda graph: graph.kill(part)), export_blocks=0)
    assert_same(run, Pacing.FASTEST)
    (moved,) = run.moves
    assert moved.parts == (part,)


def test_both_replicas_killed_at_once_cost_no_frame() -> None:
    run = disturbed(when(reached(6), lambda graph: (graph.kill(DENOISER), graph.kill(DECODER))))
    assert_same(run, Pacing.FASTEST)
    assert {part for moved in run.moves for part in moved.parts} == set(Part)


def test_a_dead_audio_encoder_is_waited_for_and_moves_nothing() -> None:
    run = disturbed(when(reached(5), lambda graph: graph.deafen()))
    assert_same(run, Pacing.FASTEST)
    assert not run.moves
    assert run.graph.counts.opened == [DECODER, DENOISER]
    assert not run.graph.counts.adopted


@pytest.mark.parametrize("part", Part)
def test_a_replica_that_hangs_is_given_up_after_the_watchdogs_time(part: Part) -> None:
    run = disturbed(when(reached(5), lambda graph: graph.hang(part)))
    assert_same(run, Pacing.FASTEST)
    (moved,) = run.moves
    assert moved.parts == (part,)
    assert PATIENCE.stage_s < moved.stall_s < 3 * PATIENCE.stage_s


def test_a_replica_that_was_only_slow_keeps_its_session() -> None:
    run = disturbed(when(reached(5), lambda graph: graph.hang(DENOISER, PATIENCE.stage_s + 2)))
    assert_same(run, Pacing.FASTEST)
    assert not run.moves


# ---- what it costs


def test_a_lost_denoiser_makes_again_only_what_came_after_its_export() -> None:
    run = disturbed(when(reached(6), lambda graph: graph.kill(DENOISER)))
    assert run.graph.counts.adopted == [(DENOISER, 4)]
    again = [b for b in set(run.graph.counts.denoised) if run.graph.counts.denoised.count(b) > 1]
    assert set(again) <= {4, 5, 6, 7, 8}
    assert sorted(run.graph.counts.decoded) == list(range(16)), "nothing is decoded twice"


def test_a_lost_decoder_has_nothing_denoised_again() -> None:
    run = disturbed(when(reached(6), lambda graph: graph.kill(DECODER)))
    assert run.graph.counts.adopted == [(DECODER, 4)]
    assert sorted(run.graph.counts.denoised) == list(range(16))


def test_latents_lost_with_the_denoiser_are_made_again_for_the_decoder() -> None:
    disturb = when(reached(6), lambda graph: (graph.kill(DENOISER), graph.kill(DECODER)))
    assert_same(disturbed(disturb, objects_die=True), Pacing.FASTEST)

    async def one_after_the_other(graph: ScriptedGraph) -> None:
        await until(lambda: reached(6)(graph))
        graph.kill(DENOISER)
        await until(lambda: reached(8)(graph))
        # The latents of the blocks since the export lie with a Denoiser that is dead.
        graph.kill(DECODER)

    assert_same(disturbed(one_after_the_other, objects_die=True), Pacing.FASTEST)


def test_before_the_first_export_a_session_begins_again() -> None:
    run = disturbed(when(reached(2), lambda graph: graph.kill(DENOISER)))
    assert run.graph.counts.opened == [DECODER, DENOISER, DENOISER]
    assert not run.graph.counts.adopted


# ---- exports


@pytest.mark.parametrize("part", Part)
def test_a_damaged_export_is_refused_and_the_older_one_used(part: Part) -> None:
    run = disturbed(when(reached(9), lambda graph: (graph.damage(part), graph.kill(part))))
    assert_same(run, Pacing.FASTEST)
    assert run.graph.counts.adopted == [(part, 4)]


def test_without_any_export_left_the_session_is_lost_and_says_so() -> None:
    def lose_all(graph: ScriptedGraph) -> None:
        assert graph.shelf is not None
        graph.shelf.forget("s")
        graph.kill(DENOISER)

    with pytest.raises(ServiceError) as raised:
        disturbed(when(reached(13), lose_all))
    assert raised.value.reason == "SESSION_LOST"


def test_a_vault_that_dies_is_waited_for_while_the_plans_reach_back_to_the_start() -> None:
    async def disturb(graph: ScriptedGraph) -> None:
        await until(lambda: reached(2)(graph))
        shelf, graph.shelf = graph.shelf, None
        graph.kill(DENOISER)
        await later(4.0, lambda: setattr(graph, "shelf", shelf))

    assert_same(disturbed(disturb), Pacing.FASTEST)


def test_what_is_kept_to_go_on_from_is_bounded() -> None:
    async def main(exporting: bool) -> tuple[int, int]:
        most = 0

        async def watch(graph: ScriptedGraph) -> None:
            nonlocal most
            if not exporting:
                graph.shelf = None
            while True:
                most = max(most, len(stages._plans), len(stages._latents))
                await asyncio.sleep(0.05)

        graph = ScriptedGraph(denoise_s=0.01, part_s=0.001)
        stages = ResilientStages(graph, PATIENCE, 4, now=asyncio.get_running_loop().time)
        spec = session_spec()
        await stages.open(spec, PORTRAIT)
        watching = asyncio.ensure_future(watch(graph))
        performance = Performance(spec, stages)  # type: ignore[arg-type]
        performance.conductor.hear("u", counted(240.0))
        await performance.end()
        watching.cancel()
        await stages.close()
        return most, len(performance.frames)

    most, frames = in_virtual_time(main(True))
    assert frames > block_frames(140).start
    assert most <= 3 * 4 + 2
    most, _ = in_virtual_time(main(False))
    assert most <= MAX_KEPT_BLOCKS + 4


# ---- no place


def test_a_lost_part_waits_for_a_replica_and_is_lost_when_none_comes() -> None:
    spec, restart_s = SPECS[Pacing.FASTEST], 8.0

    async def main(patience_s: float) -> Run:
        graph = ScriptedGraph(replicas=1, restart_s=restart_s)
        disturb = when(reached(6), lambda graph: graph.kill(DENOISER))
        return await perform(graph, spec, disturb, patience=Patience(5.0, patience_s))

    run = in_virtual_time(main(60.0))
    assert_same(run, Pacing.FASTEST)
    # It is noticed when the blocks that were made already have been shown.
    assert restart_s - 1 < run.moves[0].stall_s < restart_s + 4
    with pytest.raises(ServiceError) as raised:
        in_virtual_time(main(4.0))
    assert raised.value.reason == "SESSION_LOST"
    assert raised.value.retry_after_s is not None


def test_full_replicas_refuse_a_new_session_at_once() -> None:
    async def main() -> None:
        graph = ScriptedGraph(replicas=1)
        graph.kill(DENOISER)
        graph.replicas[DENOISER].clear()
        stages = ResilientStages(graph, PATIENCE, 4, now=asyncio.get_running_loop().time)
        with pytest.raises(ServiceError) as raised:
            await stages.open(session_spec(), PORTRAIT)
        assert raised.value.reason == "CAPACITY"

    in_virtual_time(main())


def test_a_resting_session_is_placed_anew_before_it_speaks_again() -> None:
    async def main() -> None:
        graph = ScriptedGraph()
        spec = session_spec(Pacing.REALTIME, Idle.HOLD)
        stages = ResilientStages(graph, PATIENCE, 4, now=asyncio.get_running_loop().time)
        moves: list[Moved] = []
        stages.listen(moves.append)
        await stages.open(spec, PORTRAIT)
        performance = Performance(spec, stages)  # type: ignore[arg-type]
        performance.conductor.hear("u", counted(9.0))
        performance.conductor.end_utterance("u")
        await asyncio.sleep(20)
        rested = len(performance.frames)
        graph.kill(DENOISER)
        graph.kill(DECODER)
        await stages.keep()
        assert moves[0].parts == (DENOISER, DECODER)
        assert set(stages.replicas) == {graph.holder(p).name for p in Part}  # type: ignore[union-attr]
        performance.conductor.hear("v", counted(9.0, first=200_000))
        await performance.end()
        assert performance.frames == list(range(len(performance.frames)))
        assert len(performance.frames) > rested
        assert len(moves) == 1
        await stages.close()

    in_virtual_time(main())


# ---- anything, at any time


LOSSES = {
    "denoiser": lambda graph: graph.kill(DENOISER),
    "decoder": lambda graph: graph.kill(DECODER),
    "both": lambda graph: (graph.kill(DENOISER), graph.kill(DECODER)),
    "audio": lambda graph: graph.deafen(),
    "denoiser hangs": lambda graph: graph.hang(DENOISER),
    "decoder hangs": lambda graph: graph.hang(DECODER),
    "denoiser is slow": lambda graph: graph.hang(DENOISER, 6.0),
    "decoder is slow": lambda graph: graph.hang(DECODER, 6.0),
}


@pytest.mark.slow
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    losses=st.lists(st.tuples(st.floats(0, 6), st.sampled_from(sorted(LOSSES))), min_size=1, max_size=6),
    pacing=st.sampled_from(list(Pacing)),
    replicas=st.integers(1, 3),
    export_blocks=st.sampled_from([2, 3, 4]),
    objects_die=st.booleans(),
)
def test_whatever_is_lost_whenever_each_frame_comes_once_with_its_bytes(
    losses: list[tuple[float, str]], pacing: Pacing, replicas: int, export_blocks: int, objects_die: bool
) -> None:
    async def main() -> Run:
        graph = ScriptedGraph(
            replicas=replicas, export_blocks=export_blocks, objects_die=objects_die, restart_s=2.0
        )  # fmt: skip

        async def disturb(graph: ScriptedGraph) -> None:
            for wait, kind in losses:
                await asyncio.sleep(wait)
                LOSSES[kind](graph)

        return await perform(graph, SPECS[pacing], disturb, patience=Patience(5.0, 300.0))

    assert_same(in_virtual_time(main()), pacing)


def test_sound_precedes_its_frames_though_they_were_made_twice() -> None:
    outputs = []

    async def main() -> None:
        graph = ScriptedGraph()
        spec = session_spec()
        stages = ResilientStages(graph, PATIENCE, 4, now=asyncio.get_running_loop().time)
        await stages.open(spec, PORTRAIT)
        performance = Performance(spec, stages)  # type: ignore[arg-type]
        performance.conductor.hear("u", counted(12.0))
        killing = asyncio.ensure_future(when(reached(5), lambda graph: graph.kill(DECODER))(graph))
        await performance.end()
        await killing
        outputs.extend(output for _, output in performance.outputs)
        await stages.close()

    in_virtual_time(main())
    heard = -1
    for output in outputs:
        if isinstance(output, Sound):
            assert output.block == heard + 1
            heard = output.block
        elif isinstance(output, Video):
            assert output.part.block == heard


def test_a_session_that_is_closed_is_not_brought_back() -> None:
    async def main() -> None:
        graph = ScriptedGraph()
        stages = ResilientStages(graph, PATIENCE, 4, now=asyncio.get_running_loop().time)
        await stages.open(session_spec(), PORTRAIT)
        await stages.close()
        with pytest.raises(ServiceError) as raised:
            await stages.keep()
        assert raised.value.reason == "SESSION_ENDED"
        assert graph.counts.opened == [DECODER, DENOISER]
        assert all(graph.holder(part) is None for part in Part)

    in_virtual_time(main())


def test_a_part_that_is_placed_while_the_session_closes_is_closed_there_too() -> None:
    async def main() -> None:
        graph = ScriptedGraph()
        stages = ResilientStages(graph, PATIENCE, 4, now=asyncio.get_running_loop().time)
        await stages.open(session_spec(), PORTRAIT)
        graph.kill(DENOISER)
        keeping = asyncio.ensure_future(stages.keep())
        await until(lambda: graph.counts.opened.count(DENOISER) == 2)
        # The watchers' task is not cancelled with the performance; a performance's is.
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await stages.close()
        await asyncio.sleep(1)
        assert all(graph.holder(part) is None for part in Part)

    in_virtual_time(main())


def test_a_session_that_closes_while_it_recovers_leaves_nothing_behind() -> None:
    async def main() -> None:
        graph = ScriptedGraph(replicas=1)
        stages = ResilientStages(graph, PATIENCE, 4, now=asyncio.get_running_loop().time)
        await stages.open(session_spec(), PORTRAIT)
        graph.kill(DENOISER)
        keeping = asyncio.ensure_future(stages.keep())
        await asyncio.sleep(1)
        await stages.close()
        with pytest.raises(ServiceError) as raised:
            await keeping
        assert raised.value.reason == "SESSION_ENDED"
        await asyncio.sleep(10)
        assert all(graph.holder(part) is None for part in Part)

    in_virtual_time(main())


def test_a_block_that_is_made_again_is_due_when_it_first_was() -> None:
    assert all(due is not None and due > 0 for due in EXPECTED[Pacing.REALTIME].graph.counts.due)
    run = disturbed(when(reached(6), lambda graph: graph.kill(DENOISER)), Pacing.REALTIME)
    assert_same(run, Pacing.REALTIME)
    late = [due for due in run.graph.counts.due if due is not None and due < 0]
    assert late, "what was lost is late when there is a replica again"
    assert min(late) > -PATIENCE.place_s
    fastest = disturbed(when(reached(6), lambda graph: graph.kill(DENOISER)))
    assert set(fastest.graph.counts.due) == {None}


async def looped(disturb: Callable[[ScriptedGraph], object]) -> tuple[Run, list[Moved]]:
    """Half a minute of the idle clip, then a loss, and voice."""
    loop, graph, spec = asyncio.get_running_loop(), ScriptedGraph(), session_spec(Pacing.REALTIME, Idle.LOOP)
    stages = ResilientStages(graph, PATIENCE, graph.export_blocks, now=loop.time)
    moves: list[Moved] = []
    await stages.open(spec, PORTRAIT)
    performance = Performance(spec, stages)  # type: ignore[arg-type]
    stages.listen(lambda moved: moves.append(performance.conductor.as_shown(moved)))
    await asyncio.sleep(30)
    assert graph.counts.denoised == [0, 1, 2], "all else was played"
    disturb(graph)
    performance.conductor.hear("u", counted(6.0))
    await performance.end()
    await stages.close()
    frames = [(f.index, f.data) for _, o in performance.outputs if isinstance(o, Video) for f in o.part.frames]
    return Run(frames, performance.sound, [], graph), moves


def test_a_session_that_plays_its_idle_clip_goes_on_where_the_picture_is() -> None:
    expected, _ = in_virtual_time(looped(lambda graph: None))
    run, moves = in_virtual_time(looped(lambda graph: [graph.kill(part) for part in Part]))
    assert run.frames == expected.frames
    assert [index for index, _ in run.frames] == list(range(len(run.frames)))
    assert np.array_equal(run.sound, expected.sound)
    # There was no export yet: the three blocks are made once more, those that were only played are not.
    assert run.graph.counts.denoised == [0, 1, 2, *expected.graph.counts.denoised]
    (moved,) = moves
    assert set(moved.parts) == set(Part)
    again = next(i for i, sound in enumerate(run.sound) if sound) / len(run.sound) * len(run.frames)
    assert abs(moved.frame - again) <= 2 * len(block_frames(1)), "counted as it is shown, not as it is made"
