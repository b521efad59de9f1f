"""Training of the encoders: windows as inference cuts them, what they are taught, and the files that come out."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from liveact_models.checkpoint import CheckpointError, open_checkpoint, save_checkpoint
from liveact_models.config import DEFAULT_PROMPT, preset
from liveact_models.timeline import AUDIO_WINDOW_FRAMES, block_sound_frames
from liveact_models.training import speech_bank
from liveact_models.training.audio_encoder import (
    AudioHeads,
    AudioLosses,
    audio_loss,
    initialize,
)
from liveact_models.training.probe import Probe, examine, session_states
from liveact_models.training.roughen import roughened
from liveact_models.training.speech_bank import Passage, SpeechBank, Windows
from liveact_models.training.towers import corpus, train_tokenizer
from liveact_models.voice import VoiceBuffer, block_features, prepare_window
from liveact_models.world.mouth import MOUTH, Phone, mouth_track, viseme_track
from liveact_models.world.voices import Utterance

TINY = preset("tiny")
UNTRAINED = open_checkpoint("untrained", "tiny")
FPS, RATE = 20, 16000


def utterance(seconds: float, seed: int = 0) -> Utterance:
    """Noise whose loudness follows made-up phonemes: no engine needed."""
    rng = np.random.default_rng(seed)
    edges = np.cumsum(rng.uniform(0.05, 0.3, round(seconds * 10)))
    symbols = rng.choice(["a", "m", "s", "u", "sil", "i"], len(edges) - 1)
    phones = tuple(
        Phone(str(s), float(a), float(b)) for s, (a, b) in zip(symbols, itertools.pairwise(edges), strict=True)
    )
    samples = rng.normal(0, 0.1, round(seconds * RATE)).astype(np.float32)
    for phone in phones:
        if phone.symbol == "sil":
            samples[round(phone.start * RATE) : round(phone.end * RATE)] = 0
    return Utterance(samples, phones, "noise", "")


def passage(spoken: Utterance) -> Passage:
    entries = round(len(spoken.samples) / RATE * speech_bank.TRACK_RATE)
    return Passage(
        spoken.samples,
        mouth_track(spoken.phones, entries, speech_bank.TRACK_RATE).astype(np.float16),
        viseme_track(spoken.phones, entries, speech_bank.TRACK_RATE).astype(np.int8),
        np.zeros((entries, 3), np.float16),
    )


@pytest.fixture
def bank(tmp_path) -> SpeechBank:
    """Two passages of 10 s on disk."""
    bank = SpeechBank(tmp_path, 2, FPS)
    for number in range(2):
        passage(utterance(10, number)).save(tmp_path / f"passage-{number:05d}.npz")
    bank.load()
    return bank


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    from liveact_models.encoders import AudioEncoder

    module = AudioEncoder(TINY.audio_encoder).eval()
    initialize(module)
    return module


# Windows


@pytest.mark.parametrize("block", [0, 1, 3])
def test_a_window_is_what_inference_hears(block, tmp_path, monkeypatch):
    """Of a passage as long as the block's sound the session can only begin at its start."""
    monkeypatch.setattr(speech_bank, "_block", lambda draw, frames: block)
    monkeypatch.setattr(speech_bank, "roughened", lambda samples, *others: samples.copy())
    monkeypatch.setattr(speech_bank, "MUTED_SHARE", 0.0)
    monkeypatch.setattr(speech_bank, "SPEED", 0.0)
    heard = block_sound_frames(block).stop
    spoken = utterance(heard / FPS)
    passage(spoken).save(tmp_path / "passage-00000.npz")
    bank = SpeechBank(tmp_path, 1, FPS)
    bank.load()
    windows = bank.windows([(0, 0, 0)])

    buffer = VoiceBuffer(RATE, FPS)
    buffer.append(spoken.samples)
    expected = prepare_window(buffer.window(block), FPS)
    assert np.allclose(windows.sound[0], expected, atol=2e-3)  # 16 bits a sample on disk

    class Rows:
        def encode(self, sound, frames):
            return torch.arange(frames)

    read = block_features(Rows(), buffer.window(block), block, FPS)  # type: ignore[arg-type]
    assert set(torch.nonzero(windows.weight[0] == 1).flatten().tolist()) == set(read.tolist())

    first = speech_bank.audio_window_start(block)
    truth = mouth_track(spoken.phones, heard, FPS)
    audible = range(max(first, 0), min(first + AUDIO_WINDOW_FRAMES, heard))
    assert np.allclose(windows.mouth[0, audible.start - first : audible.stop - first], truth[audible], atol=0.02)
    silent = torch.ones(AUDIO_WINDOW_FRAMES, dtype=torch.bool)
    silent[audible.start - first : audible.stop - first] = False
    assert (windows.weight[0, silent] == 0).all()


def test_a_window_depends_on_its_key_alone(bank):
    both = bank.windows([(3, 7, 0), (3, 7, 1)])
    alone = bank.windows([(3, 7, 1)])
    assert torch.equal(both.sound[1], alone.sound[0])
    assert torch.equal(both.mouth[1], alone.mouth[0])
    assert not torch.equal(both.sound[0], both.sound[1])


def test_where_somebody_falls_silent_the_mouth_rests(bank, monkeypatch):
    monkeypatch.setattr(speech_bank, "_falls_silent", lambda visemes, draw: np.arange(len(visemes)) >= 30)
    monkeypatch.setattr(speech_bank, "roughened", lambda samples, *others: samples.copy())
    windows = bank.windows([(1, 0, sample) for sample in range(4)])
    assert torch.equal(windows.mouth[:, 30:], torch.tensor([0.0, 0.5, 0.0, 0.0]).expand(4, AUDIO_WINDOW_FRAMES - 30, 4))
    assert (windows.visemes[:, 30:] == 0).all()
    assert (windows.visemes[:, :30] > 0).any()
    assert windows.sound[:, 30 * 800 :].std(dim=1).max() < 1e-4
    assert windows.sound[:, : 30 * 800].std(dim=1).min() > 0.1


def test_silence_begins_or_ends_at_a_pause():
    """Of eight frames of which the fourth is a pause."""
    visemes = np.array([1, 2, 3, 0, 5, 6, 7, 8])
    masks = {tuple(speech_bank._falls_silent(visemes, np.random.default_rng(seed))) for seed in range(200)}
    frames = np.arange(8)
    assert masks == {tuple(mask) for mask in (frames < 0, frames < 3, frames > 3, frames >= 0)}


def test_speech_is_made_once(tmp_path, monkeypatch):
    made = []

    def spoken(number: int) -> Passage:
        made.append(number)
        return passage(utterance(8, number))

    monkeypatch.setattr(Passage, "spoken", spoken)
    assert list(SpeechBank(tmp_path, 3, FPS).build(rank=1, size=2)) == [(1, 1)]
    assert made == [1]
    assert list(SpeechBank(tmp_path, 3, FPS).build()) == [(1, 3), (2, 3), (3, 3)]
    assert sorted(made) == [0, 1, 2]


def test_phrases_begin_and_end_in_the_cues():
    """Half a second of speech with a short gap, then silence."""
    speaking = np.zeros(200, bool)
    speaking[50:70] = speaking[80:100] = True
    samples = np.repeat(speaking, RATE // speech_bank.TRACK_RATE).astype(np.float32)
    energy, onset, offset = speech_bank._cues(samples, speaking).T
    assert energy[60] == 1
    assert energy[150] == 0
    assert onset.argmax() == 50
    assert onset[79] > 0  # a gap of 100 ms ends no phrase
    assert onset[100] == 0
    assert offset[100] == 1
    assert np.all(np.diff(offset[100:]) < 0)


def test_roughening_leaves_the_window_given_and_its_length():
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 0.1, 4560).astype(np.float32)
    before = samples.copy()
    several = [roughened(samples, 0.1, samples[::-1].copy(), np.random.default_rng(seed)) for seed in range(20)]
    assert np.array_equal(samples, before)
    assert all(part.shape == samples.shape and part.dtype == np.float32 and np.isfinite(part).all() for part in several)
    changed = [part for part in several if not np.array_equal(part, samples)]
    assert 8 < len(changed) < 20
    assert any(np.corrcoef(part, samples)[0, 1] < -0.5 for part in changed)  # polarity


# The lesson


def test_every_layer_learns_the_mouth(encoder, bank):
    windows = bank.windows([(0, 0, sample) for sample in range(2)])
    heads = AudioHeads(TINY.audio_encoder)
    optimizer = torch.optim.Adam(heads.parameters(), 5e-2)
    losses = []
    for _ in range(15):
        loss, measures = audio_loss(encoder, heads, windows, AudioLosses(), torch.float32)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert set(MOUTH) < set(measures)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in heads.parameters())
    assert all(p.grad is not None for p in encoder.parameters())
    encoder.zero_grad()


def test_frames_that_are_not_heard_do_not_count(encoder, bank):
    windows = bank.windows([(0, 0, 0), (0, 0, 1)])
    heads = AudioHeads(TINY.audio_encoder)
    weight = windows.weight.clone()
    weight[:, 40:] = 0
    other = windows.visemes.clone()
    other[:, 40:] = 5
    with torch.no_grad():
        first, second = (
            audio_loss(
                encoder, heads, dataclasses.replace(windows, weight=weight, visemes=v), AudioLosses(), torch.float32
            )
            for v in (windows.visemes, other)
        )
    assert torch.equal(first[0], second[0])


def test_gradients_come_through_what_inference_computes(encoder):
    sound = torch.randn(2, 8000)
    with torch.no_grad():
        together = encoder(sound, 10)
    apart = torch.stack([encoder.encode(part, 10) for part in sound])
    assert torch.allclose(together, apart, atol=1e-5)


def test_a_session_is_heard_block_by_block(encoder):
    spoken = utterance(3.2)
    states, mouth = session_states(encoder, spoken, FPS)
    assert len(states) == len(mouth) == 21 + 32
    buffer = VoiceBuffer(RATE, FPS)
    buffer.append(spoken.samples)
    assert torch.equal(states[21:], block_features(encoder, buffer.window(1), 1, FPS)[2:-2])


def test_the_probe_reads_what_is_there_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(600, 2, 16, generator=generator)
    mouth = (states[:, 0] @ torch.randn(16, 4, generator=generator)).numpy()  # layer 0 knows, layer 1 does not
    r = Probe(states[:400], mouth[:400]).correlation(states[400:], mouth[400:])
    assert (r[0] > 0.99).all()
    assert (r[1].abs() < 0.4).all()


def test_an_examination_has_a_mark_for_every_layer_and_group(encoder):
    one, other = utterance(3, 1), utterance(3, 2)
    marks = examine(encoder, FPS, [one], {"same": [one], "others": [other]})
    assert {name: mark.shape for name, mark in marks.items()} == {"same": (4, 4), "others": (4, 4)}
    assert (marks["same"] > marks["others"]).all()


# Tokenizer and checkpoint


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(corpus(0, 1500), TINY.text_encoder.vocab)


def test_any_text_is_read_and_prompts_fit(tokenizer):
    for text in ("", "naïve 你好 🙂 \x00", "A" * 500):
        ids = tokenizer(text, truncation=True, max_length=48).input_ids
        assert len(ids) <= 48
        assert ids[-1] == 1
        assert max(ids) < TINY.text_encoder.vocab
    assert tokenizer.decode(tokenizer("你好 🙂").input_ids, skip_special_tokens=True).strip() == "你好 🙂"
    assert tokenizer("Smile!").input_ids == tokenizer("smile!").input_ids
    lengths = [len(tokenizer(text).input_ids) for text in corpus(1, 300)]
    assert max(lengths) <= TINY.transformer.text_len
    assert len(tokenizer(DEFAULT_PROMPT).input_ids) < 14


@pytest.fixture
def saved(tmp_path, tokenizer):
    text = UNTRAINED.load_text_encoder()
    text.tokenizer = tokenizer
    save_checkpoint(tmp_path / "own", {"text_encoder": text}, TINY)
    return tmp_path / "own"


def test_the_tokenizer_travels_with_its_encoder(saved, tokenizer):
    text = open_checkpoint(saved).load_text_encoder()
    assert text.tokenizer(DEFAULT_PROMPT).input_ids == tokenizer(DEFAULT_PROMPT).input_ids
    assert text.encode(DEFAULT_PROMPT, 48).shape == (len(tokenizer(DEFAULT_PROMPT).input_ids), TINY.text_encoder.dim)


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_tokenizer_that_is_missing_or_broken_is_named(saved, content):
    path = saved / "tokenizer.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json") as caught:
        open_checkpoint(saved).load_text_encoder()
    assert caught.value.reason == "CHECKPOINT_NOT_FOUND"


def test_a_tokenizer_of_another_kind_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="no 'bpe' tokenizer"):
        save_checkpoint(tmp_path, {"text_encoder": UNTRAINED.load_text_encoder()}, TINY)


def test_untrained_weights_read_bytes():
    assert TINY.text_encoder.tokenizer == "bpe"
    assert UNTRAINED.config.text_encoder.tokenizer == "bytes"
    assert len(UNTRAINED.load_text_encoder().encode("abc", 48)) == 4


# The stage


def test_the_stage_makes_three_encoders_that_load(tmp_path, monkeypatch):
    pytest.importorskip("skia")
    from liveact_models.training.encoders import EncodersStage
    from liveact_models.training.loop import Recipe, RunFolder, Workers, train
    from liveact_models.training.products import open_products

    monkeypatch.setattr(Passage, "spoken", lambda number: passage(utterance(8, number)))
    options = {
        "speech_seconds": 40,
        "portraits": 6,
        "captions": 200,
        "towers_batch": 2,
        "towers_every": 1,
        "examine_seconds": 0,
    }
    recipe = Recipe(preset="test", stage="encoders", steps=2, batch=2, lr=1e-2, ema=0.5, options=options)
    run = RunFolder(tmp_path)
    stage = EncodersStage(recipe, run, torch.device("cpu"))
    before = {name: p.detach().clone() for name, p in stage.modules["image_encoder"].named_parameters()}
    status = train(stage, recipe, run, Workers())
    assert set(status.products) >= {"tokenizer.json", *(f"{n}_encoder.safetensors" for n in ("audio", "text", "image"))}
    checkpoint = open_products(run, recipe)
    for load in (checkpoint.load_audio_encoder, checkpoint.load_text_encoder, checkpoint.load_image_encoder):
        assert all(p.isfinite().all() for p in load().parameters())
    after = dict(stage.modules["image_encoder"].named_parameters())
    assert any(not torch.equal(after[name], before[name]) for name in before)


def test_windows_go_to_a_device_whole(bank):
    windows = bank.windows([(0, 0, 0)])
    moved = windows.to(torch.device("cpu"))
    assert isinstance(moved, Windows)
    assert torch.equal(moved.sound, windows.sound)
