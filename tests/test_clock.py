"""When blocks are due, on a clock that the test turns."""

from __future__ import annotations

import pytest

from liveact_models.timeline import block_frames
from liveact_services.conductor.clock import MARGIN_S, PLAYOUT_MARGIN_S, RESTART_S, PlayClock

FPS = 20


class Wall:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def clock(wall: Wall) -> PlayClock:
    return PlayClock(FPS, wall)


def deliver(clock: PlayClock, wall: Wall, block: int, at: float, took: float) -> None:
    wall.now = at
    clock.delivered(block, at - took)


def test_before_anything_was_delivered_only_block_0_may_start(clock: PlayClock) -> None:
    assert clock.earliest(0) == clock.latest(0) == float("-inf")
    assert clock.shown_at(0) is None
    assert clock.earliest(1) == float("inf")


def test_frame_0_is_shown_a_playout_delay_after_its_delivery(clock: PlayClock, wall: Wall) -> None:
    deliver(clock, wall, 0, at=101.0, took=0.2)
    shown = [clock.shown_at(block) for block in range(4)]
    expected = [101.0 + clock.playout_delay + block_frames(block).start / FPS for block in range(4)]
    assert shown == pytest.approx(expected)
    # Block 1 waits for 1.6 s of voice and block 0 plays for 1.05 s.
    assert clock.playout_delay == pytest.approx(0.55 + PLAYOUT_MARGIN_S)


def test_a_quick_block_starts_when_its_predecessor_is_shown_or_as_late_as_it_can(clock: PlayClock, wall: Wall) -> None:
    deliver(clock, wall, 0, at=101.0, took=0.2)
    shown = clock.shown_at(1)
    assert shown is not None
    assert clock.earliest(2) == shown
    assert clock.latest(2) == pytest.approx(shown + 1.6 - MARGIN_S - 1.25 * 0.2)


def test_a_slow_block_starts_early_enough_to_be_shown_in_time(clock: PlayClock, wall: Wall) -> None:
    deliver(clock, wall, 0, at=101.0, took=1.5)
    for block in (1, 2, 3):
        shown = clock.shown_at(block)
        assert shown is not None
        assert clock.earliest(block) <= clock.latest(block) < shown - 1.5


def test_one_quick_block_does_not_make_the_clock_forget_slow_ones(clock: PlayClock, wall: Wall) -> None:
    deliver(clock, wall, 0, at=101.0, took=1.0)
    deliver(clock, wall, 1, at=102.0, took=0.1)
    shown = clock.shown_at(2)
    assert shown is not None
    assert clock.latest(2) == pytest.approx(shown - MARGIN_S - 1.25 * (0.9 * 1.0 + 0.1 * 0.1))


def test_one_slow_block_is_reckoned_with_from_the_next_on(clock: PlayClock, wall: Wall) -> None:
    deliver(clock, wall, 0, at=101.0, took=0.1)
    deliver(clock, wall, 1, at=102.0, took=0.8)
    shown = clock.shown_at(2)
    assert shown is not None
    assert clock.latest(2) == pytest.approx(shown - MARGIN_S - 1.25 * 0.8)


def test_latents_are_wanted_before_the_block_is_shown_by_what_comes_after_them(clock: PlayClock, wall: Wall) -> None:
    wall.now = 101.0
    clock.delivered(0, started=100.5, tail_s=0.2)
    shown = clock.shown_at(1)
    assert shown is not None
    assert clock.due_s(1) == pytest.approx(shown - 101.0 - 0.2 * 0.5 - MARGIN_S)


def test_a_block_the_viewer_waits_for_already_is_wanted_soon(clock: PlayClock, wall: Wall) -> None:
    assert clock.due_s(0) == RESTART_S
    deliver(clock, wall, 0, at=101.0, took=0.2)
    wall.now = 500.0
    assert clock.due_s(1) == RESTART_S


def test_a_block_in_time_moves_nothing_and_a_late_one_moves_all_after_it(clock: PlayClock, wall: Wall) -> None:
    deliver(clock, wall, 0, at=101.0, took=0.2)
    before = clock.shown_at(3)
    due = clock.shown_at(1)
    assert before is not None
    assert due is not None
    deliver(clock, wall, 1, at=due - 0.01, took=0.2)
    assert (clock.stalls, clock.shown_at(3)) == (0, before)
    due = clock.shown_at(2)
    assert due is not None
    deliver(clock, wall, 2, at=due + 0.4, took=0.2)
    assert (clock.stalls, clock.stalled_s) == (1, pytest.approx(0.4))
    assert clock.shown_at(3) == pytest.approx(before + 0.4)
