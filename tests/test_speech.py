"""Where voice stands on the media clock, whatever pieces it comes in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liveact_models.timeline import block_frames, block_sound_frames
from liveact_services.conductor.outputs import Event, Happening
from liveact_services.conductor.speech import CUSHION_S, PlannedSound, Speech
from liveact_services.errors import ServiceError
from stage_fixtures import FPS, RATE, counted

STARTED, ENDED, IDLE, UNDERRUN = (
    Happening.SPEECH_STARTED,
    Happening.SPEECH_ENDED,
    Happening.IDLE,
    Happening.UNDERRUN,
)


def at(frame: int) -> int:
    return frame * RATE // FPS


def end_of_sound(block: int) -> int:
    """The first sample that is not heard when the block is made."""
    return at(block_sound_frames(block).stop)


def of(kind: Happening, events: list[Event]) -> list[tuple[str, float]]:
    return [(event.utterance, event.at_s) for event in events if event.kind is kind]


class Told:
    """Plans blocks and keeps what came of it."""

    def __init__(self, speech: Speech) -> None:
        self.speech = speech
        self.planned: list[PlannedSound] = []
        self.events: list[Event] = []

    def plan(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            planned = self.speech.plan(len(self.planned))
            self.planned.append(planned)
            self.events += planned.events

    def end(self, name: str) -> None:
        if event := self.speech.end(name):
            self.events.append(event)

    @property
    def sound(self) -> np.ndarray:
        return np.concatenate([p.sound.samples for p in self.planned])

    @property
    def spoken(self) -> list[str]:
        return [name for p in self.planned for name in p.utterances]


@pytest.fixture
def told() -> Told:
    return Told(Speech(RATE, FPS))


steps = st.lists(st.one_of(st.integers(1, 40000), st.just("end"), st.just("plan")), min_size=1, max_size=60)


@settings(max_examples=150, deadline=None)
@given(steps=steps, fps=st.sampled_from([10, 20, 24, 30]), rate=st.sampled_from([8000, 16000, 22050]))
def test_every_sample_is_spoken_once_and_in_order_and_silence_is_the_rest(
    steps: list[int | str], fps: int, rate: int
) -> None:
    told = Told(Speech(rate, fps))
    sent, utterance, heard = 0, 0, {}
    for step in steps:
        name = f"u{utterance}"
        if isinstance(step, int):
            told.speech.hear(name, np.arange(sent + 1, sent + 1 + step, dtype=np.float32))
            sent += step
            heard[name] = heard.get(name, 0) + step
        elif step == "plan":
            told.plan()
        elif name in heard:
            told.end(name)
            utterance += 1
    if event := told.speech.end_all():
        told.events.append(event)
    while told.speech.speaking or told.speech.covers(len(told.planned)):
        told.plan()
    told.plan()
    sound = told.sound
    assert np.array_equal(sound[sound != 0], np.arange(1, sent + 1, dtype=np.float32))
    assert [name for name, _ in of(STARTED, told.events)] == list(heard)
    assert [name for name, _ in of(ENDED, told.events)] == list(heard)
    position = 0
    for (name, start), (_, stop) in zip(of(STARTED, told.events), of(ENDED, told.events), strict=True):
        spoken = np.flatnonzero((sound > position) & (sound <= position + heard[name]))
        position += heard[name]
        assert spoken[0] == round(start * rate)
        assert spoken[-1] + 1 == round(stop * rate)
    # A frame says whose voice it has.
    for frame, name in enumerate(told.spoken):
        part = sound[round(frame * rate / fps) : round((frame + 1) * rate / fps)]
        assert bool(name) == bool(part.any()), frame


def test_what_a_block_hears_does_not_depend_on_the_pieces() -> None:
    whole, pieces = Told(Speech(RATE, FPS)), Told(Speech(RATE, FPS))
    voice = counted(5.0)
    whole.speech.hear("u", voice)
    for start in range(0, len(voice), 777):
        pieces.speech.hear("u", voice[start : start + 777])
    for told in (whole, pieces):
        told.end("u")
        told.plan(4)
    for one, other in zip(whole.planned, pieces.planned, strict=True):
        assert np.array_equal(one.voice.samples, other.voice.samples)
        assert (one.voice.mean, one.voice.std, one.utterances) == (other.voice.mean, other.voice.std, other.utterances)


def test_a_block_hears_two_frames_beyond_its_own(told: Told) -> None:
    told.speech.hear("u", counted(3.0))
    assert told.speech.complete(0)
    told.plan()
    assert (
        np.flatnonzero(told.planned[0].voice.samples)[-1] - np.flatnonzero(told.planned[0].voice.samples)[0]
        == at(23) - 1
    )
    assert told.speech.waiting == 3 * RATE - at(23)


def test_voice_at_hand_is_placed_so_late_that_it_reaches_the_end_of_the_block_less_a_cushion(told: Told) -> None:
    told.plan()
    told.speech.hear("u", counted(1.0))
    told.plan()
    cushion = round(CUSHION_S * RATE)
    assert told.speech.waiting == cushion
    start = end_of_sound(1) - (RATE - cushion)
    assert of(STARTED, told.events) == [("u", start / RATE)]
    assert np.flatnonzero(told.sound)[0] == start
    # What comes in time goes on without a gap.
    told.speech.hear("u", counted(1.6, first=RATE + 1))
    told.plan(1)
    sound = told.sound
    assert np.array_equal(sound[start:], np.arange(1, len(sound) - start + 1))
    assert not of(UNDERRUN, told.events)


def test_less_voice_than_the_cushion_waits_for_more(told: Told) -> None:
    told.speech.hear("u", counted(CUSHION_S / 2))
    told.plan()
    assert not told.sound.any()
    assert not of(STARTED, told.events)


def test_two_utterances_of_which_the_second_is_still_spoken_stay_together(told: Told) -> None:
    told.plan()
    told.speech.hear("a", counted(0.5))
    told.end("a")
    told.speech.hear("b", counted(0.4, first=8001))
    told.plan(1)
    told.speech.hear("b", counted(2.0, first=8001 + 6400))
    told.end("b")
    told.plan(2)
    spoken = np.flatnonzero(told.sound)
    assert np.array_equal(np.diff(spoken), np.ones(len(spoken) - 1))
    assert not of(UNDERRUN, told.events)


def test_voice_that_runs_dry_underruns_once_and_goes_on_later(told: Told) -> None:
    told.speech.hear("u", counted(2.0))
    told.plan(2)
    (underrun,) = [event for event in told.events if event.kind is UNDERRUN]
    assert (underrun.at_s, underrun.block, underrun.utterance) == (2.0, 1, "u")
    told.plan()
    assert len(of(UNDERRUN, told.events)) == 1
    told.speech.hear("u", counted(0.5, first=2 * RATE + 1))
    told.end("u")
    told.plan(2)
    assert np.array_equal(told.sound[told.sound != 0], counted(2.5))
    assert len(of(STARTED, told.events)) == 1


def test_speech_ended_is_where_the_voice_ended_however_late_the_end_came(told: Told) -> None:
    told.speech.hear("u", counted(2.0))
    told.plan(4)
    told.end("u")
    assert of(ENDED, told.events) == [("u", 2.0)]
    assert not told.speech.speaking


def test_idle_begins_with_the_first_block_in_which_nobody_speaks(told: Told) -> None:
    told.plan(2)
    assert not of(IDLE, told.events)
    told.speech.hear("u", counted(0.5))
    told.end("u")
    told.plan(3)
    assert of(IDLE, told.events) == [("", block_frames(3).start / FPS)]


def test_voice_that_reaches_into_the_next_block_only_by_what_was_heard_ahead_covers_it(told: Told) -> None:
    told.speech.hear("u", counted(22 / FPS))
    told.end("u")
    told.plan()
    assert not told.speech.speaking
    assert told.speech.covers(1)
    told.plan()
    assert not told.speech.covers(2)
    assert np.array_equal(told.sound[: at(22)], counted(22 / FPS))


# ---- interrupts


def test_an_interrupt_accounts_for_all_voice(told: Told) -> None:
    told.speech.hear("u", counted(8.0))
    told.plan(2)
    event = told.speech.interrupt(next_block=2, shown_frames=30)
    assert (event.kind, event.utterance, event.block) == (Happening.INTERRUPTED, "u", 2)
    planned = block_frames(2).start / FPS
    assert event.played_s == 30 / FPS
    assert event.discarded_s == pytest.approx(8.0 - planned)
    told.plan(2)
    assert np.array_equal(told.sound[: at(53)], counted(8.0)[: at(53)])
    assert not told.sound[at(53) :].any()
    assert not told.speech.speaking


def test_played_counts_the_spans_of_an_utterance_that_ran_dry_between(told: Told) -> None:
    told.speech.hear("u", counted(2.0))
    told.plan(3)
    told.speech.hear("u", counted(8.0, first=2 * RATE + 1))
    told.plan(3)
    told.speech.forget(block_frames(4).start)
    told.speech.forget(block_frames(5).start)
    event = told.speech.interrupt(6, block_frames(5).start)
    shown = np.count_nonzero(told.sound[: at(block_frames(5).start)])
    planned = np.count_nonzero(told.sound)
    assert event.played_s == shown / RATE
    assert event.discarded_s == (10 * RATE - planned) / RATE
    assert shown > 2 * RATE


def test_voice_of_an_interrupted_utterance_that_comes_later_is_dropped(told: Told) -> None:
    told.speech.hear("u", counted(3.0))
    told.plan()
    told.speech.interrupt(1, 0)
    told.speech.hear("u", counted(1.0))
    assert told.speech.waiting == 0
    told.speech.hear("v", counted(2.0, first=100_000))
    told.speech.hear("u", counted(1.0))
    told.end("u")
    told.end("v")
    told.plan(3)
    after = told.sound[at(21) :]
    assert np.array_equal(after[after != 0], counted(2.0, first=100_000))
    with pytest.raises(ServiceError, match="UTTERANCE_ENDED"):
        told.speech.hear("u", counted(1.0))


def test_an_interrupt_while_nobody_speaks_takes_nothing(told: Told) -> None:
    told.plan(2)
    event = told.speech.interrupt(2, 10)
    assert (event.utterance, event.played_s, event.discarded_s) == ("", 0.0, 0.0)
    told.plan()
    assert not told.sound.any()


# ---- what is refused


def test_utterances_neither_interleave_nor_come_twice(told: Told) -> None:
    told.speech.hear("a", counted(0.1))
    with pytest.raises(ServiceError, match="UTTERANCE_INTERLEAVED"):
        told.speech.hear("b", counted(0.1))
    told.end("a")
    for call in (lambda: told.speech.hear("a", counted(0.1)), lambda: told.speech.end("a")):
        with pytest.raises(ServiceError, match="UTTERANCE_ENDED"):
            call()


def test_the_end_of_an_unheard_utterance_is_a_notice(told: Told) -> None:
    told.speech.hear("silent", np.zeros(0, np.float32))
    event = told.speech.end("silent")
    assert event is not None
    assert (event.kind, event.reason, event.utterance) == (Happening.NOTICE, "UTTERANCE_EMPTY", "silent")
    assert not told.speech.speaking


def test_a_full_backlog_is_refused_whole() -> None:
    speech = Speech(RATE, FPS, max_waiting_s=2.0)
    speech.hear("u", counted(2.0))
    for name in ("u", "v"):
        with pytest.raises(ServiceError, match="VOICE_BACKLOG_FULL"):
            speech.hear(name, counted(0.1))
    speech.end("u")
    speech.plan(0)
    speech.hear("v", counted(0.1))


def test_an_hour_of_utterances_leaves_nothing_behind_once_shown() -> None:
    told = Told(Speech(RATE, FPS))
    for block in range(2250):
        if block % 2:
            told.speech.hear(f"u{block}", np.ones(8000, np.float32))
            told.speech.end(f"u{block}")
        told.speech.plan(block)
        told.speech.forget(block_frames(block).stop)
    assert len(told.speech._spans) <= 2
    assert told.speech._buffer.nbytes < 4 * 2**20
