"""The performance: what moves has a cause that can be heard or was asked for, and what is asked for is clearly seen."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from liveact_models.world.face import STATE, FaceState
from liveact_models.world.motion import ACTIONS, BLINK, EASE, EMOTIONS, FADE, FPS, Motion, perform

FRAMES = 160
TALK = slice(20, 70)
"""One phrase; silence before and after."""


def speech() -> NDArray[np.float32]:
    energy = np.zeros(FRAMES, np.float32)
    energy[TALK] = 0.6 + 0.4 * np.sin(np.arange(50) * 0.9)
    return energy


def act(
    seed: int = 0,
    energy: NDArray[np.float32] | None = None,
    emotion: tuple[int, str] | None = None,
    action: tuple[int, str] | None = None,
) -> Motion:
    """A performance with an emotion or action from some frame on."""
    energy = np.zeros(FRAMES, np.float32) if energy is None else energy
    emotions, actions = np.zeros(FRAMES, np.int64), np.zeros(FRAMES, np.int64)
    if emotion:
        emotions[emotion[0] :] = EMOTIONS.index(emotion[1])
    if action:
        actions[action[0] :] = ACTIONS.index(action[1])
    mouth = np.stack([energy, np.full(FRAMES, 0.5), energy / 2, energy / 4], axis=1).astype(np.float32)
    return perform(np.random.default_rng(seed), mouth, energy, emotions, actions)


def test_the_mouth_is_passed_on_and_every_value_is_in_range() -> None:
    motion = act(energy=speech(), emotion=(30, "angry"), action=(40, "nod"))
    assert np.array_equal(motion.open, speech())
    assert np.array_equal(motion.round, speech() / 2)
    table = motion.table()
    assert table.shape == (FRAMES, len(STATE))
    assert table.dtype == np.float32
    assert table.min() >= -1
    assert table.max() <= 1
    assert motion.state(33) == FaceState.from_row(table[33])


def test_same_seed_same_motion() -> None:
    first, again, other = (act(seed, speech()).table() for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_nothing_moves_for_what_is_still_to_be_said() -> None:
    until = 45
    later = speech()
    later[until:] = 0.3
    assert np.array_equal(act(energy=speech()).table()[: until - 6], act(energy=later).table()[: until - 6])


def test_nothing_moves_for_what_is_still_to_be_asked_for() -> None:
    asked = act(energy=speech(), emotion=(60, "happy"), action=(60, "wave")).table()
    plain = act(energy=speech()).table()
    assert np.array_equal(asked[:60], plain[:60])
    assert not np.array_equal(asked[60:], plain[60:])


def test_speech_moves_head_and_brows_more_than_silence() -> None:
    silent, spoken = act(), act(energy=speech())
    for name in ("pitch", "roll", "brow_raise"):
        moved = np.abs(getattr(spoken, name) - getattr(silent, name))
        assert moved[TALK].max() > 0.15, name
    assert np.ptp(silent.yaw) < 0.25
    assert np.ptp(silent.yaw) > 0.02
    assert spoken.brow_raise[TALK.start : TALK.start + 8].max() > 2 * spoken.brow_raise[: TALK.start].max() + 0.2


def test_blinks_follow_the_edges_of_a_phrase() -> None:
    blink = act(energy=speech()).blink
    for edge in (TALK.start, TALK.stop):
        assert np.array_equal(blink[edge + 3 : edge + 3 + len(BLINK)], BLINK)


def test_blinks_without_a_cause_are_rare_and_end() -> None:
    shut = sum(int((np.diff((act(seed).blink > 0.9).astype(int)) == 1).sum()) for seed in range(20))
    seconds = 20 * FRAMES / FPS
    assert 0.05 < shut / seconds < 0.3
    assert act().blink.max() <= 1


@pytest.mark.parametrize(
    ("emotion", "name", "level"),
    [("happy", "smile", 1.0), ("sad", "smile", -1.0), ("angry", "brow_frown", 1.0), ("surprised", "brow_raise", 1.0)],
)
def test_emotions_ease_in_and_stay(emotion: str, name: str, level: float) -> None:
    track = getattr(act(emotion=(40, emotion)), name)
    assert np.abs(track[:40]).max() < 0.05
    assert 0.1 < abs(track[40 + EASE // 2]) < 0.9
    assert track[40 + EASE + 1 :] == pytest.approx(level, abs=0.05)
    assert np.abs(np.diff(track)).max() < 0.3


@pytest.mark.parametrize(("action", "name"), [("nod", "pitch"), ("shake", "yaw")])
def test_nods_and_shakes_swing_clearly_within_two_blocks(action: str, name: str) -> None:
    track = getattr(act(action=(53, action)), name)[53 : 53 + 32]
    assert track.max() > 0.5
    assert track.min() < -0.5
    turns = (np.diff(np.sign(np.diff(track))) != 0).sum()
    assert 3 <= turns <= 6


def test_looking_aside_holds_and_waving_swings_beside_the_head() -> None:
    aside, waving = act(action=(53, "look aside")), act(action=(53, "wave"))
    assert aside.yaw[65:].min() > 0.5
    assert aside.gaze_x[65:] == pytest.approx(0.8, abs=0.01)
    assert waving.hand[53 + FADE :] == pytest.approx(1.0)
    assert np.ptp(waving.hand_swing[53 + FADE : 53 + FADE + 16]) > 1.8
    assert waving.hand[:53].max() == 0


def test_actions_keep_their_phase_wherever_they_start() -> None:
    early, late = (act(action=(start, "shake")).yaw - act().yaw for start in (21, 53))
    assert early[21:80] == pytest.approx(late[53:112], abs=1e-5)


def test_an_action_fades_after_the_next_begins() -> None:
    actions = np.zeros(FRAMES, np.int64)
    actions[21:53] = ACTIONS.index("wave")
    still = np.zeros((FRAMES, 4), np.float32)
    none = np.zeros(FRAMES, np.int64)
    motion = perform(np.random.default_rng(0), still, still[:, 0], none, actions)
    assert motion.hand[52] == pytest.approx(1.0)
    assert 0 < motion.hand[55] < 1
    assert motion.hand[53 + FADE :].max() == 0


def test_bad_arguments_are_named() -> None:
    rng, zeros = np.random.default_rng(0), np.zeros(5, np.int64)
    with pytest.raises(ValueError, match=r"\[T, 4\]"):
        perform(rng, np.zeros((5, 3), np.float32), np.zeros(5, np.float32), zeros, zeros)
    with pytest.raises(ValueError, match="surprised"):
        perform(rng, np.zeros((5, 4), np.float32), np.zeros(5, np.float32), zeros + 9, zeros)


def test_no_frames_no_motion() -> None:
    nothing = np.zeros(0, np.int64)
    motion = perform(
        np.random.default_rng(0), np.zeros((0, 4), np.float32), nothing.astype(np.float32), nothing, nothing
    )
    assert len(motion) == 0
