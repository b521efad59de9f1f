"""Voices and mouths: phonemes sound when they are said to, and the mouth does what they need."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from liveact_models.training import MissingExtra
from liveact_models.world.mouth import (
    COMPOUND,
    MOUTH,
    REST,
    SILENCE,
    SYMBOLS,
    VISEMES,
    Phone,
    mouth_track,
    targets,
    viseme_track,
)
from liveact_models.world.sentences import sentences
from liveact_models.world.voices import RATE, Utterance, Voice, speech, voice_named, voices
from liveact_models.world.voices.alignment import features
from liveact_models.world.voices.augment import equalised, noisy, reverberated, varispeed
from liveact_models.world.voices.espeak import espeak_aligner
from liveact_models.world.voices.espeak_library import spelled
from liveact_models.world.voices.human import RecordedVoice
from liveact_models.world.voices.ipa import from_arpabet, symbols
from liveact_models.world.voices.onnx import with_output
from liveact_models.world.voices.resample import resampled

ARCTIC = Path(__file__).parent / "voices" / "arctic"
FPS = 20
OPEN, WIDTH, ROUND, TEETH = range(len(MOUTH))
VOWELS = frozenset("iɪeɛəɐʌɜæaɑɒɔoʊuʉ") | {"aɪ", "aʊ", "eɪ", "oʊ", "ɔɪ", "əʊ"}
TEXT = "The big boy put a blue phone by the church, hearing my mother sing about fresh food."


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def said(*words: tuple[str, float], start: float = 0.3) -> list[Phone]:
    """Phones one after another, given as (symbol, seconds)."""
    ends = start + np.cumsum([seconds for _, seconds in words])
    return [Phone(symbol, float(end) - seconds, float(end)) for (symbol, seconds), end in zip(words, ends, strict=True)]


def at(phones: list[Phone], seconds: float) -> np.ndarray:
    """The mouth at one moment."""
    fps = 200
    return mouth_track(phones, 400, fps)[round(seconds * fps - 0.5)]


# --- the mouth ---


def test_a_mouth_track_has_four_values_a_frame_between_zero_and_one() -> None:
    track = mouth_track(said(*((symbol, 0.08) for symbol in SYMBOLS)), 130, FPS)
    assert track.shape == (130, 4)
    assert track.dtype == np.float32
    assert track.min() >= 0
    assert track.max() <= 1


@pytest.mark.parametrize("stop", ["p", "b", "m"])
def test_lips_close_for_a_bilabial_between_open_vowels(stop: str) -> None:
    phones = said(("ɑ", 0.15), (stop, 0.08), ("ɑ", 0.15))
    track = mouth_track(phones, 200, 200)[:, OPEN]
    closed = track[90:106].min()
    assert closed < 0.08
    assert track[72] > 0.6
    assert track[122] > 0.6


def test_the_mouth_rests_in_silence_and_beyond_the_phones() -> None:
    track = mouth_track(said(("ɑ", 0.2), (SILENCE, 0.4), ("i", 0.2)), 60, FPS)
    for seconds in (0.0, 0.7, 2.5):
        np.testing.assert_allclose(track[int(seconds * FPS)], REST, atol=0.02)
    np.testing.assert_allclose(mouth_track([], 5, FPS), np.tile(REST, (5, 1)), atol=1e-6)


def test_vowels_differ_as_mouths_do() -> None:
    shape = {vowel: at(said((vowel, 0.3)), 0.45) for vowel in "iuɑæ"}
    assert shape["ɑ"][OPEN] > shape["æ"][OPEN] > 2 * shape["i"][OPEN]
    assert shape["i"][WIDTH] > 0.85 > 0.2 > shape["u"][WIDTH]
    assert shape["u"][ROUND] > 0.9
    assert shape["i"][ROUND] == pytest.approx(0, abs=0.02)


def test_teeth_show_on_labiodentals_and_hisses() -> None:
    for symbol in "fvsʃθ":
        assert at(said(("ə", 0.1), (symbol, 0.1), ("ə", 0.1)), 0.45)[TEETH] > 0.7, symbol
    assert at(said(("ə", 0.1), ("m", 0.1), ("ə", 0.1)), 0.45)[TEETH] < 0.1


def test_a_diphthong_moves_and_a_stop_frees_the_mouth_at_its_burst() -> None:
    glide = said(("aʊ", 0.3))
    assert at(glide, 0.36)[OPEN] > 2 * at(glide, 0.56)[OPEN]
    assert at(glide, 0.56)[ROUND] > 0.5 > at(glide, 0.36)[ROUND]
    stop = said(("ɑ", 0.15), ("p", 0.2), ("ɑ", 0.15))
    assert at(stop, 0.51)[OPEN] < 0.05 < 0.3 < at(stop, 0.62)[OPEN]


def test_the_curve_does_not_depend_on_the_frame_rate() -> None:
    phones = said(("h", 0.06), ("ə", 0.07), ("l", 0.08), ("oʊ", 0.2))
    slow, fast = mouth_track(phones, 16, FPS), mouth_track(phones, 80, 5 * FPS)
    np.testing.assert_allclose(slow, fast[2::5], atol=1e-6)


def test_visemes_name_what_is_spoken_at_the_middle_of_a_frame() -> None:
    track = viseme_track(said(("m", 0.2), ("tʃ", 0.2), ("u", 0.2)), 25, FPS)
    names = [VISEMES[index] for index in track]
    assert track.dtype == np.int64
    assert names[:6] == ["silence"] * 6
    assert names[6:10] == ["lips"] * 4
    assert names[10:14] == ["ridge", "ridge", "hush", "hush"]
    assert names[14:18] == ["round close"] * 4
    assert set(names[18:]) == {"silence"}


def test_every_symbol_has_targets_and_no_other() -> None:
    for symbol in (*SYMBOLS, *COMPOUND):
        values, weights = targets(symbol)
        assert values.shape == weights.shape == (4,)
        assert (weights > 0).all()
    with pytest.raises(ValueError, match="'%' is not in the table"):
        targets("%")
    with pytest.raises(ValueError, match="not in the table"):
        mouth_track([Phone("%", 0, 1)], 20, FPS)


# --- spellings ---


def test_engines_spellings_meet_in_one_table() -> None:
    assert symbols("ˈoʊ") == symbols("O") == (from_arpabet("OW1"),)
    assert symbols("tʃ") == symbols("ʧ") == (from_arpabet("ch"),)
    assert symbols("ˌɑː") == ("ɑ",)
    assert symbols("ˈ") == ()
    with pytest.raises(ValueError, match="'☃'"):
        symbols("ɑ☃")
    with pytest.raises(ValueError, match="'qq' is not ARPABET"):
        from_arpabet("qq")


# --- sentences ---


def test_a_test_sentence_is_never_a_training_sentence() -> None:
    draw = rng(1)
    train = {sentences(draw, "train") for _ in range(4000)}
    test = {sentences(draw, "test") for _ in range(1000)}
    assert not train & test
    assert len(train) > 3000
    assert sentences(rng(2), "test") == sentences(rng(2), "test")
    with pytest.raises(ValueError, match="train and test"):
        sentences(draw, "dev")  # type: ignore[arg-type]


def test_sentences_hold_every_english_phoneme() -> None:
    draw = rng(3)
    heard = set(symbols(spelled(" ".join(sentences(draw, "train") for _ in range(150)), "en-us").replace(" ", "")))
    english = set("pbmfvθðtdnlszʃʒkɡŋhɹwjiɪɛəʌɜæɑɔʊu") | {"aɪ", "aʊ", "eɪ", "oʊ", "ɔɪ", "tʃ", "dʒ"}
    assert english - heard == set()


# --- voices ---


def test_thirty_voices_are_trained_and_whole_voices_held_out() -> None:
    trained, held_out = voices("trained"), voices("held-out")
    names = [voice.name for voice in trained + held_out]
    assert len(trained) >= 30
    assert len(held_out) >= 8
    assert len(set(names)) == len(names)
    assert not any("klatt" in voice.name for voice in trained)
    assert {voice.split for voice in trained} == {"trained"}
    assert {voice.split for voice in held_out} == {"held-out"}
    with pytest.raises(ValueError, match="no voice is named 'nobody'"):
        voice_named("nobody")
    with pytest.raises(ValueError, match="trained or held-out"):
        voices("all")  # type: ignore[arg-type]


@pytest.mark.parametrize("voice", voices("trained") + voices("held-out"), ids=lambda voice: voice.name)
def test_every_voice_says_phonemes_one_after_another(voice: Voice) -> None:
    utterance = voice.speak(TEXT, rng(4))
    assert utterance.samples.dtype == np.float32
    assert 2.5 < utterance.seconds < 9
    assert np.abs(utterance.samples).max() > 0.05
    assert utterance.voice == voice.name
    assert {phone.symbol for phone in utterance.phones} <= set(SYMBOLS)
    assert sum(phone.symbol != SILENCE for phone in utterance.phones) > 45
    edges = [edge for phone in utterance.phones for edge in (phone.start, phone.end)]
    assert edges == sorted(edges)
    assert edges[0] >= 0
    assert edges[-1] <= utterance.seconds + 0.03


@pytest.mark.parametrize("name", ["hibari-tenor", "espeak-en-us-nyc-f2", "espeak-en-us-klatt"])
def test_the_same_draws_give_the_same_samples_whatever_was_said_before(name: str) -> None:
    voice = voice_named(name)
    first = voice.speak(TEXT, rng(5))
    voice_named("espeak-en-us-f3").speak("Something else.", rng(6))
    again, other = voice.speak(TEXT, rng(5)), voice.speak(TEXT, rng(7))
    np.testing.assert_array_equal(first.samples, again.samples)
    assert first.phones == again.phones
    assert len(other.samples) != len(first.samples) or not np.array_equal(other.samples, first.samples)


def lag(utterances: list[Utterance]) -> float:
    """Seconds by which vowels sound later than they are said to: where labels and loudness at 250-1000 Hz agree best."""
    hop, window = RATE // 200, RATE // 50
    labels, levels = [], []
    for utterance in utterances:
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(utterance.samples, window // 2), window)[::hop]
        power = (np.abs(np.fft.rfft(frames * np.hanning(window))) ** 2)[:, 5:21].sum(1)
        level = 10 * np.log10(power + 1e-8)
        times = np.arange(len(level)) * hop / RATE
        spoken = sum((times >= p.start) & (times < p.end) for p in utterance.phones if p.symbol in VOWELS)
        labels += [spoken, np.zeros(40)]
        levels += [np.maximum(level, level.max() - 50), np.full(40, level.mean())]
    label, level = np.concatenate(labels), np.concatenate(levels)
    fits = [np.corrcoef(label, np.roll(level, -shift))[0, 1] for shift in range(-30, 31)]
    return (int(np.argmax(fits)) - 30) * hop / RATE


@pytest.mark.parametrize(
    "name", ["hibari-heart", "hibari-bass", "hibari-child", "espeak-en-us-m1", "espeak-en-us-klatt"]
)
def test_vowels_sound_when_they_are_said_to(name: str) -> None:
    draw = rng(8)
    spoken = [voice_named(name).speak(sentences(draw, "test"), draw) for _ in range(6)]
    assert abs(lag(spoken)) <= 0.015
    late = [u.cut(0.05, u.seconds) for u in spoken]
    wrong = [Utterance(u.samples, later.phones, u.voice, u.text) for u, later in zip(spoken, late, strict=True)]
    assert lag(wrong) == pytest.approx(0.05, abs=0.015)  # the measure sees a shift of 50 ms


def test_silence_is_where_nothing_sounds() -> None:
    utterance = voice_named("hibari-heart").speak(TEXT, rng(9))
    level = np.sqrt(np.mean(utterance.samples**2))
    for phone in utterance.phones:
        if phone.symbol == SILENCE and phone.end - phone.start > 0.15:
            inside = utterance.samples[int((phone.start + 0.04) * RATE) : int((phone.end - 0.04) * RATE)]
            assert np.sqrt(np.mean(inside**2)) < 0.15 * level


def test_the_aligner_brings_disturbed_times_back() -> None:
    utterance = voice_named("espeak-en-klatt2").speak(TEXT, rng(10)).trimmed()
    edges = np.array([phone.start for phone in utterance.phones] + [utterance.phones[-1].end])
    disturbed = edges.copy()
    disturbed[1:-1] += 0.04 + rng(11).uniform(-0.02, 0.02, len(edges) - 2)
    rough = [
        Phone(phone.symbol, start, max(start, end))
        for phone, start, end in zip(utterance.phones, disturbed, disturbed[1:], strict=False)
    ]
    found = espeak_aligner().aligned(features(utterance.samples, RATE), rough)
    assert [phone.symbol for phone in found] == [phone.symbol for phone in utterance.phones]
    error = np.abs([phone.start for phone in found] - edges[:-1])
    assert np.median(error) < 0.011
    assert np.median(np.abs(disturbed - edges)) > 0.03


# --- speech ---


def test_speech_is_as_long_as_wanted_and_its_seed_decides_it() -> None:
    one, same, other = speech(5, 6.4, "train"), speech(5, 6.4, "train"), speech(6, 6.4, "train")
    assert len(one.samples) == round(6.4 * RATE)
    np.testing.assert_array_equal(one.samples, same.samples)
    assert one.phones == same.phones
    assert one.text != other.text
    assert one.phones[-1].end <= 6.4
    assert np.abs(one.samples).max() <= 1


def test_speech_is_spoken_by_trained_voices_unless_another_is_named() -> None:
    trained = {voice.name for voice in voices("trained")}
    heard = {speech(seed, 1.5, "train").voice for seed in range(24)}
    assert heard <= trained
    assert len(heard) > 10
    assert speech(0, 2, "test", "espeak-en-us-klatt").voice == "espeak-en-us-klatt"
    with pytest.raises(ValueError, match="train or test"):
        speech(0, 1, "all")  # type: ignore[arg-type]


def test_speech_pauses_between_sentences() -> None:
    utterance = speech(12, 20, "train", "espeak-en-us-m1", augment=False)
    gaps = [later.start - phone.end for phone, later in zip(utterance.phones, utterance.phones[1:], strict=False)]
    pauses = [gap for gap in gaps if gap > 0.15]
    assert len(pauses) >= 3
    assert np.median(pauses) < 1.0


def test_speech_is_made_faster_than_training_uses_it() -> None:
    speech(0, 1, "train", "hibari-heart")
    began = time.process_time()
    seconds = sum(speech(seed, 10, "train").seconds for seed in range(100, 110))
    assert seconds / (time.process_time() - began) > 20


# --- other rooms ---


def test_rooms_and_microphones_do_not_move_the_sound() -> None:
    click = np.zeros(RATE, np.float32)
    click[5000] = 1.0
    for change in (equalised, reverberated):
        for seed in range(10):
            assert np.abs(change(click, rng(seed))).argmax() == 5000


def test_noise_stays_below_the_voice() -> None:
    voice = speech(1, 3, "train", "espeak-en-us-m1", augment=False).samples
    for seed in range(12):
        noise = noisy(voice, rng(seed)) - voice
        assert 3 < 10 * np.log10(np.mean(voice**2) / np.mean(noise**2)) < 42


def test_another_pace_moves_the_phonemes_along() -> None:
    slow = voice_named("espeak-en-us-m1").speak(TEXT, rng(13))
    fast = varispeed(slow, 1.1)
    assert fast.seconds == pytest.approx(slow.seconds / 1.1, rel=0.005)
    assert fast.phones[20].start == pytest.approx(slow.phones[20].start / 1.1, rel=0.005)
    assert abs(lag([fast]) - lag([slow])) < 0.011


# --- people ---


def test_recorded_people_are_held_out_and_in_time() -> None:
    people = RecordedVoice(ARCTIC)
    assert people.split == "held-out"
    assert [clip.voice for clip in people.clips] == ["awb_a0007", "slt_a0009"]
    assert abs(lag(people.clips)) <= 0.015
    assert people.speak("whatever", rng()).text.endswith(".")
    assert len(speech(3, 5, "test", people).samples) == 5 * RATE


def test_a_folder_without_clips_or_with_a_bad_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no clip"):
        RecordedVoice(tmp_path)
    for name in ("slt_a0009.wav", "slt_a0009.lab"):
        (tmp_path / name).write_bytes((ARCTIC / name).read_bytes())
    labels = tmp_path / "slt_a0009.lab"
    labels.write_text("# Hm.\n0.0\t0.5\tqq\n")
    with pytest.raises(ValueError, match=r"slt_a0009\.lab.*qq"):
        RecordedVoice(tmp_path)
    labels.write_text("0.0\t0.5\tpau\n")
    with pytest.raises(ValueError, match="first line"):
        RecordedVoice(tmp_path)


# --- what is missing ---


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.signal", None)
    with pytest.raises(MissingExtra, match=r"scipy is missing.*liveact-serve\[train\]"):
        resampled(np.zeros(100, np.float32), 22050, RATE)


def test_a_network_without_durations_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "voice.onnx"
    model.write_bytes(b"no network")
    with pytest.raises(ValueError, match=r"voice\.onnx computes no tensor named '/Round_output_0'"):
        with_output(model, "/Round_output_0")
