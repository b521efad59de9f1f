"""The Conductor: when it makes blocks and of what. Time is virtual and the stages follow a script, but where noted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import numpy as np
import pytest

from liveact_models.timeline import block_frames
from liveact_services.conductor.clock import MARGIN_S
from liveact_services.conductor.conductor import Conductor
from liveact_services.conductor.outputs import Event, Happening, Sound, Video
from liveact_services.conductor.speech import CUSHION_S
from liveact_services.conductor.stages import Idle, Pacing
from liveact_services.errors import ServiceError
from stage_fixtures import FPS, RATE, Performance, ScriptedStages, counted, in_virtual_time, session_spec

REALTIME, FASTEST = Pacing.REALTIME, Pacing.FASTEST
PIECE_S = 0.02


async def speak(
    performance: Performance, seconds: float, *, first: int = 1, late: Callable[[], float] = lambda: 0.0
) -> None:
    """Voice at speaking pace in pieces of 20 ms, each up to `late()` seconds late; then the end of the utterance."""
    began = performance.now()
    voice = counted(seconds, first)
    size = round(PIECE_S * RATE)
    for number, start in enumerate(range(0, len(voice), size)):
        await asyncio.sleep(max(0.0, began + (number + 1) * PIECE_S + late() - performance.now()))
        performance.conductor.hear("u", voice[start : start + size])
    performance.conductor.end_utterance("u")


def latencies(performance: Performance, began: float, seconds: float) -> list[float]:
    """From the moment a second of voice was spoken until its frame is shown."""
    return [
        performance.shown_at[performance.place(1 + s * RATE) * FPS // RATE] - (began + s)
        for s in range(int(seconds))
    ]  # fmt: skip


# ---- real-time pacing


@pytest.mark.parametrize("denoise_s", [0.05, 0.5, 1.3])
@pytest.mark.parametrize("start_s", [0.0, 0.7, 2.9])
def test_voice_at_speaking_pace_is_spoken_without_a_gap_soon_after(denoise_s: float, start_s: float) -> None:
    async def main() -> None:
        jitter = random.Random(3)
        performance = Performance(session_spec(REALTIME), ScriptedStages(denoise_s))
        # The clock knows how long a block takes once it has seen one.
        await asyncio.sleep(start_s if denoise_s < 0.5 else start_s + 2 * denoise_s)
        began = performance.now()
        await speak(performance, 20.0, late=lambda: jitter.uniform(0, 0.08))
        await asyncio.sleep(6)
        assert not performance.events(Happening.UNDERRUN)
        assert performance.stalled_s == 0
        sound = performance.sound
        start = performance.place(1)
        assert np.array_equal(sound[start : start + 20 * RATE], counted(20.0))
        assert np.count_nonzero(sound) == 20 * RATE
        # A block, what it hears ahead, a cushion that was not enough to start with, one that is held back, and the making.
        bound = 1.6 + 2 / FPS + 2 * CUSHION_S + MARGIN_S + 1.25 * (denoise_s + performance.stages.part_s)
        assert max(latencies(performance, began, 20)) < bound + 0.01
        await performance.end()

    in_virtual_time(main())


def test_pieces_later_than_the_cushion_run_dry_and_speech_recovers() -> None:
    async def main() -> None:
        performance = Performance(session_spec(REALTIME))
        # Longer than a block in which nothing comes.
        await speak(performance, 20.0, late=lambda: max(0.0, 7.5 - performance.now()) if performance.now() > 5 else 0.0)
        await asyncio.sleep(6)
        assert 1 <= len(performance.events(Happening.UNDERRUN)) <= 2
        sound = performance.sound
        assert np.array_equal(sound[sound != 0], counted(20.0))
        assert performance.stalled_s == 0
        await performance.end()

    in_virtual_time(main())


def test_voice_faster_than_real_time_is_spoken_without_a_gap_and_no_faster() -> None:
    async def main() -> None:
        performance = Performance(session_spec(REALTIME))
        await asyncio.sleep(1.0)
        for start in range(0, 10 * RATE, RATE):
            performance.conductor.hear("u", counted(10.0)[start : start + RATE])
        performance.conductor.end_utterance("u")
        await asyncio.sleep(5.0)
        assert len(performance.frames) < (5.0 + 1.0) * FPS + 32
        await asyncio.sleep(10.0)
        start = performance.place(1)
        assert np.array_equal(performance.sound[start : start + 10 * RATE], counted(10.0))
        assert performance.stalled_s == 0
        await performance.end()

    in_virtual_time(main())


@pytest.mark.parametrize("denoise_s", [0.05, 1.0, 1.45])
def test_silence_is_animated_without_a_stall_and_at_most_a_block_ahead(denoise_s: float) -> None:
    async def main() -> None:
        performance = Performance(session_spec(REALTIME), ScriptedStages(denoise_s))
        await asyncio.sleep(60)
        assert performance.stalled_s == 0
        assert 60 * FPS * 0.9 < len(performance.shown_at) <= 60 * FPS
        # The block on the screen and the one after it.
        assert performance.most_ahead <= 2 * 32
        assert not performance.sound.any()
        assert not performance.events()
        await performance.end()

    in_virtual_time(main())


def test_a_machine_slower_than_the_clock_stalls_and_stays_in_order() -> None:
    async def main() -> None:
        performance = Performance(session_spec(REALTIME), ScriptedStages(denoise_s=2.0))
        await asyncio.sleep(40)
        assert performance.stalled_s > 5
        assert performance.conductor.clock.stalls > 5
        # As fast as the machine goes: a block in two seconds.
        assert len(performance.stages.plans) >= 19
        assert performance.stages.most_unfinished == 2
        await performance.end()
        assert performance.frames == list(range(len(performance.frames)))

    in_virtual_time(main())


def test_hold_makes_no_block_without_voice_and_leaves_none_unspoken() -> None:
    async def main() -> None:
        performance = Performance(session_spec(REALTIME, Idle.HOLD))
        await asyncio.sleep(10)
        assert not performance.outputs
        # 22 frames: one of them in the look-ahead of block 0.
        performance.conductor.hear("a", counted(22 / FPS))
        await asyncio.sleep(5)
        assert not performance.stages.plans
        performance.conductor.end_utterance("a")
        await asyncio.sleep(10)
        assert len(performance.stages.plans) == 2
        assert np.array_equal(performance.sound[performance.sound != 0], counted(22 / FPS))
        performance.conductor.hear("b", counted(3.0, first=50_000))
        performance.conductor.end_utterance("b")
        await asyncio.sleep(10)
        made = len(performance.stages.plans)
        assert np.array_equal(performance.sound[performance.sound >= 50_000], counted(3.0, first=50_000))
        await asyncio.sleep(60)
        assert len(performance.stages.plans) == made
        for plan in performance.stages.plans:
            assert plan.voice.samples.any()
        await performance.end()
        assert len(performance.stages.plans) == made

    in_virtual_time(main())


def test_the_late_end_of_a_spoken_utterance_costs_no_block() -> None:
    async def main() -> None:
        performance = Performance(session_spec(REALTIME, Idle.HOLD))
        # Exactly the sound of two blocks, with the look-ahead of the second.
        performance.conductor.hear("u", counted(55 / FPS))
        await asyncio.sleep(10)
        assert len(performance.stages.plans) == 2
        performance.conductor.end_utterance("u")
        await asyncio.sleep(10)
        assert len(performance.stages.plans) == 3
        assert [event.at_s for event in performance.events(Happening.SPEECH_ENDED)] == [55 / FPS]
        await performance.end()
        assert len(performance.stages.plans) == 3

    in_virtual_time(main())


def test_events_keep_their_order_when_the_end_overtakes_the_block() -> None:
    async def main() -> None:
        performance = Performance(session_spec(FASTEST), ScriptedStages(denoise_s=5))
        performance.conductor.hear("u", counted(23 / FPS))
        await asyncio.sleep(1)
        assert len(performance.stages.plans) == 1
        performance.conductor.end_utterance("u")
        await performance.end()
        kinds = [event.kind for event in performance.events()]
        assert kinds == [Happening.SPEECH_STARTED, Happening.SPEECH_ENDED]

    in_virtual_time(main())


# ---- the end


@pytest.mark.parametrize("pacing", list(Pacing))
@pytest.mark.parametrize("idle", list(Idle))
@pytest.mark.parametrize("frames", [0, 1, 20, 21, 22, 23, 24, 53, 54, 55, 56, 200])
def test_finish_speaks_what_waits_and_makes_no_more_than_that(pacing: Pacing, idle: Idle, frames: int) -> None:
    async def main() -> None:
        performance = Performance(session_spec(pacing, idle), credit=10_000, shows=False)
        if frames:
            performance.conductor.hear("u", counted(frames / FPS))
        performance.conductor.finish()
        await performance.run
        sound = performance.sound
        assert np.array_equal(sound[sound != 0], counted(frames / FPS))
        made = performance.conductor.planned_blocks
        assert frames <= block_frames(made).start
        assert made == 0 or frames > block_frames(made - 1).start
        with pytest.raises(ServiceError, match="SESSION_ENDED"):
            performance.conductor.hear("v", counted(1.0))

    in_virtual_time(main())


def test_finish_in_an_idle_stream_ends_without_another_block() -> None:
    async def main() -> None:
        performance = Performance(session_spec(REALTIME))
        await asyncio.sleep(5)
        made = performance.conductor.planned_blocks
        await performance.end()
        assert performance.conductor.planned_blocks == made

    in_virtual_time(main())


# ---- fastest pacing


def test_fastest_makes_blocks_of_voice_only_and_asks_no_clock() -> None:
    async def main() -> None:
        def clock() -> float:
            return 0.0

        outputs: list[object] = []
        stages = ScriptedStages()
        conductor = Conductor(session_spec(FASTEST), stages, outputs.append, credit_frames=10_000, now=clock)
        run = asyncio.create_task(conductor.run())
        await asyncio.sleep(10)
        assert not stages.plans
        conductor.hear("u", counted(10.0))
        await asyncio.sleep(10)
        # All blocks whose sound is known to its last sample; the rest waits for more.
        assert len(stages.plans) == 6
        conductor.end_utterance("u")
        conductor.finish()
        await run
        sound = np.concatenate([output.samples for output in outputs if isinstance(output, Sound)])
        assert np.array_equal(sound[: 10 * RATE], counted(10.0))
        assert not sound[10 * RATE :].any()
        assert len(stages.plans) == 7
        assert stages.most_unfinished == 2

    in_virtual_time(main())


# ---- credit and pause


@pytest.mark.parametrize("pacing", list(Pacing))
def test_never_more_frames_than_the_credit_beyond_the_last_acknowledged(pacing: Pacing) -> None:
    async def main() -> None:
        performance = Performance(session_spec(pacing), credit=100, shows=False)
        conductor = performance.conductor
        conductor.hear("u", counted(30.0))
        conductor.end_utterance("u")
        for acked in (0, 1, 17, 60, 85, 85, 200):
            acked = min(acked, len(performance.frames))
            conductor.ack(acked)
            await asyncio.sleep(20)
            assert len(performance.frames) <= acked + 100
            # And not a block less: the next one would pass it.
            assert block_frames(conductor.planned_blocks).stop > acked + 100
            assert conductor.out_of_credit
        performance.stop()

    in_virtual_time(main())


def test_acknowledging_what_was_not_sent_or_less_than_before_is_refused() -> None:
    async def main() -> None:
        performance = Performance(session_spec(REALTIME), shows=False)
        await asyncio.sleep(1)
        performance.conductor.ack(10)
        with pytest.raises(ServiceError, match="ACK_BACKWARDS"):
            performance.conductor.ack(9)
        with pytest.raises(ServiceError, match="ACK_BEYOND_SENT"):
            performance.conductor.ack(len(performance.frames) + 1)
        performance.stop()

    in_virtual_time(main())


def test_a_pause_starts_no_block_and_afterwards_it_goes_on() -> None:
    async def main() -> None:
        performance = Performance(session_spec(REALTIME))
        await asyncio.sleep(5)
        performance.conductor.pause(True)
        made = performance.conductor.planned_blocks
        await asyncio.sleep(30)
        assert performance.conductor.planned_blocks == made
        performance.conductor.pause(False)
        await asyncio.sleep(5)
        assert performance.conductor.planned_blocks >= made + 3
        await performance.end()
        assert performance.frames == list(range(len(performance.frames)))

    in_virtual_time(main())


# ---- interrupts and prompts


def test_an_interrupt_takes_effect_at_the_first_unplanned_block_and_accounts_for_all_voice() -> None:
    async def main() -> None:
        performance = Performance(session_spec(REALTIME))
        conductor = performance.conductor
        conductor.hear("u", counted(20.0))
        await asyncio.sleep(6.3)
        cut, shown = conductor.planned_blocks, len(performance.shown_at)
        conductor.interrupt()
        conductor.hear("u", counted(2.0))
        conductor.end_utterance("u")
        (event,) = performance.events(Happening.INTERRUPTED)
        assert (event.block, event.utterance) == (cut, "u")
        await asyncio.sleep(5)
        spoken = np.count_nonzero(performance.sound)
        assert spoken == block_frames(cut).start * RATE // FPS - performance.place(1)
        not_yet_shown = spoken / RATE - event.played_s
        assert event.played_s == shown / FPS - performance.place(1) / RATE
        assert event.played_s + event.discarded_s + not_yet_shown == pytest.approx(20.0)
        # At most the block on the screen and the one after it were still spoken.
        assert not_yet_shown <= 2 * 1.6
        await performance.end()

    in_virtual_time(main())


def test_prompts_apply_at_their_blocks() -> None:
    async def main() -> None:
        performance = Performance(session_spec(FASTEST), credit=10_000, shows=False)
        conductor = performance.conductor
        starts = [block_frames(block).start / FPS for block in range(8)]
        conductor.update("third", starts[5] + 0.01)
        conductor.update("first", 0.0)
        # As a client names a block: by its pts, in whole microseconds.
        conductor.update("overtaken", starts[3] - 0.3)
        conductor.update("second", round(starts[3] * 1e6) / 1e6)
        conductor.hear("u", counted(12.0))
        conductor.finish()
        await performance.run
        assert {plan.block: plan.prompt for plan in performance.stages.plans if plan.prompt} == {
            0: "first", 3: "second", 6: "third",
        }  # fmt: skip
        applied = performance.events(Happening.PROMPT_APPLIED)
        assert [(event.block, event.message) for event in applied] == [(0, "first"), (3, "second"), (6, "third")]
        assert [event.at_s for event in applied] == [starts[0], starts[3], starts[6]]

    in_virtual_time(main())


def test_a_pts_rounded_up_still_names_its_block() -> None:
    async def main() -> None:
        performance = Performance(session_spec(FASTEST, fps=30), credit=10_000, shows=False)
        # 53 / 30 s is 1766666.67 microseconds.
        performance.conductor.update("now", 1.766667)
        performance.conductor.hear("u", counted(6.0))
        performance.conductor.finish()
        await performance.run
        assert [plan.block for plan in performance.stages.plans if plan.prompt] == [2]

    in_virtual_time(main())


# ---- order, errors, tasks


def test_a_block_brings_its_events_then_its_sound_then_its_frames() -> None:
    async def main() -> None:
        performance = Performance(session_spec(FASTEST), credit=10_000, shows=False)
        performance.conductor.hear("u", counted(3.0))
        await performance.end()
        seen: list[tuple[int, str]] = []
        for _, output in performance.outputs:
            if isinstance(output, Video):
                seen.append((output.part.block, "video"))
                assert len(output.utterances) == len(output.part.frames)
            elif isinstance(output, Sound):
                seen.append((output.block, "sound"))
        assert seen == sorted(seen, key=lambda item: (item[0], item[1] == "video"))
        assert isinstance(performance.outputs[0][1], Event)
        assert performance.frames == list(range(block_frames(2).stop))

    in_virtual_time(main())


@pytest.mark.parametrize("block", [0, 2])
def test_what_a_stage_raises_comes_out_of_run_and_leaves_no_task(block: int) -> None:
    async def main() -> None:
        performance = Performance(session_spec(FASTEST), ScriptedStages(fails_at=block), shows=False)
        performance.conductor.hear("u", counted(20.0))
        with pytest.raises(RuntimeError, match=f"block {block} failed"):
            await performance.run
        assert performance.frames == list(range(block_frames(block).start))
        await asyncio.sleep(1)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    in_virtual_time(main())


def test_a_cancellation_together_with_news_is_not_lost() -> None:
    async def main() -> None:
        performance = Performance(session_spec(FASTEST), shows=False)
        await asyncio.sleep(1)
        performance.run.cancel()
        await asyncio.sleep(0)
        performance.conductor.pause(False)
        await asyncio.wait([performance.run], timeout=1)
        assert performance.run.cancelled()

    in_virtual_time(main())


def test_what_submit_raises_comes_out_of_run() -> None:
    async def main() -> None:
        stages = ScriptedStages()

        def submit(plan: object) -> None:
            raise RuntimeError("no handle")

        stages.submit = submit  # type: ignore[assignment, method-assign]
        performance = Performance(session_spec(REALTIME), stages, shows=False)
        with pytest.raises(RuntimeError, match="no handle"):
            await performance.run

    in_virtual_time(main())


def test_a_run_that_is_cancelled_leaves_no_task() -> None:
    async def main() -> None:
        performance = Performance(session_spec(REALTIME), ScriptedStages(denoise_s=1.0), shows=False)
        await asyncio.sleep(3.5)
        performance.run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await performance.run
        await asyncio.sleep(5)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    in_virtual_time(main())
