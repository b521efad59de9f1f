"""Voice: any sound becomes what a block hears, and how it was cut into chunks never shows."""

from __future__ import annotations

import itertools
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liveact_models import timeline
from liveact_models.voice import (
    BlockVoice,
    VoiceBuffer,
    VoiceError,
    block_features,
    clipped_fraction,
    decode_pcm,
    load_voice,
    prepare_clip,
    prepare_window,
)

FPS = 20


def tone(rate: int, seconds: float, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def peak_hertz(samples: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.fft.rfftfreq(len(samples), 1 / rate)[spectrum.argmax()])


def write_wav(path, samples: np.ndarray, rate: int, channels: int = 1):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def encode(path, codec: str, samples: np.ndarray, rate: int):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        resampler = av.AudioResampler(stream.codec_context.format, "mono", rate)
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        for part in [*resampler.resample(frame), None]:
            container.mux(stream.encode(part))
    return path


# Files


@pytest.mark.parametrize("rate", [8000, 22050, 48000])
def test_a_wav_file_comes_back_as_written(tmp_path, rate):
    samples = tone(rate, 0.5)
    voice = load_voice(write_wav(tmp_path / "a.wav", samples, rate))
    assert voice.rate == rate
    assert voice.seconds == pytest.approx(0.5)
    assert np.abs(voice.samples - samples).max() < 1e-4


@pytest.mark.parametrize(("name", "codec"), [("a.mp3", "libmp3lame"), ("a.ogg", "libopus"), ("a.wav", "pcm_s24le")])
def test_compressed_and_wide_files_are_read(tmp_path, name, codec):
    voice = load_voice(encode(tmp_path / name, codec, tone(48000, 1.0), 48000))
    assert voice.seconds == pytest.approx(1.0, abs=0.1)
    assert peak_hertz(voice.samples[4800:-4800], voice.rate) == pytest.approx(440, abs=2)


def test_channels_are_averaged(tmp_path):
    both = np.stack([np.full(800, 0.5), np.full(800, -0.25)], axis=1).reshape(-1)
    voice = load_voice(write_wav(tmp_path / "a.wav", both, 16000, channels=2))
    assert np.allclose(voice.samples, 0.125, atol=1e-4)


def test_files_that_are_no_sound_get_a_stable_reason(tmp_path):
    def reason(path) -> str:
        with pytest.raises(VoiceError) as caught:
            load_voice(path)
        assert str(path) in str(caught.value)
        return caught.value.reason

    (tmp_path / "text.wav").write_text("not sound at all" * 100)
    assert reason(tmp_path / "text.wav") == "AUDIO_UNREADABLE"
    assert reason(tmp_path / "missing.wav") == "AUDIO_UNREADABLE"
    assert reason(tmp_path) == "AUDIO_UNREADABLE"
    assert reason(write_wav(tmp_path / "empty.wav", np.empty(0), 16000)) == "AUDIO_EMPTY"
    bad = tone(16000, 0.1)
    bad[7] = np.nan
    assert reason(encode(tmp_path / "nan.wav", "pcm_f32le", bad, 16000)) == "AUDIO_NOT_FINITE"
    with av.open(str(tmp_path / "silent.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for frame in [av.VideoFrame(32, 32, "yuv420p"), None]:
            container.mux(stream.encode(frame))
    assert reason(tmp_path / "silent.mp4") == "AUDIO_NO_STREAM"


# PCM


@pytest.mark.parametrize(
    ("encoding", "data", "expected"),
    [
        ("s16le", b"\x00\x80\x00\x40", [-1.0, 0.5]),
        ("s24le", b"\x00\x00\x80\x00\x00\x40", [-1.0, 0.5]),
        ("s32le", b"\x00\x00\x00\x80\x00\x00\x00\x40", [-1.0, 0.5]),
        ("f32le", np.array([-1, 0.5], "<f4").tobytes(), [-1.0, 0.5]),
    ],
)
def test_pcm_of_every_width(encoding, data, expected):
    assert decode_pcm(data, rate=16000, channels=1, encoding=encoding).tolist() == expected
    assert decode_pcm(data, rate=16000, channels=2, encoding=encoding).tolist() == [-0.25]
    assert decode_pcm(b"", rate=16000, channels=1, encoding=encoding).dtype == np.float32


@pytest.mark.parametrize(
    ("reason", "data", "arguments"),
    [
        ("AUDIO_ODD_BYTES", b"\0" * 3, {}),
        ("AUDIO_ODD_BYTES", b"\0" * 6, {"channels": 2}),
        ("AUDIO_RATE_UNSUPPORTED", b"\0\0", {"rate": 11025}),
        ("AUDIO_CHANNELS_UNSUPPORTED", b"\0\0", {"channels": 3}),
        ("AUDIO_CHANNELS_UNSUPPORTED", b"\0\0", {"channels": 0}),
        ("AUDIO_ENCODING_UNSUPPORTED", b"\0\0", {"encoding": "mulaw"}),
        ("AUDIO_NOT_FINITE", np.array([np.inf], "<f4").tobytes(), {"encoding": "f32le"}),
        ("AUDIO_NOT_FINITE", np.array([np.nan], "<f4").tobytes(), {"encoding": "f32le"}),
        ("AUDIO_OUT_OF_RANGE", np.array([1.01], "<f4").tobytes(), {"encoding": "f32le"}),
    ],
)
def test_pcm_that_cannot_be_used_gets_a_stable_reason(reason, data, arguments):
    with pytest.raises(VoiceError) as caught:
        decode_pcm(data, **{"rate": 16000, "channels": 1, "encoding": "s16le", **arguments})
    assert caught.value.reason == reason


def test_a_float_a_rounding_beyond_full_scale_is_taken():
    data = np.array([1.0005, -1.0005], "<f4").tobytes()
    assert decode_pcm(data, rate=16000, channels=1, encoding="f32le").tolist() == [1.0, -1.0]


def test_clipped_fraction():
    assert clipped_fraction(np.array([0.5, 1.0, -1.0, 0.0], np.float32)) == 0.5
    assert clipped_fraction(np.empty(0, np.float32)) == 0.0


# Preparation


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("fps", [10, 20, 25, 60])
def test_the_clock_changes_and_the_pitch_does_not(rate, fps):
    clip = prepare_clip(tone(rate, 3.0), rate, fps)
    assert len(clip) == 3 * fps * 16000 // 25
    assert peak_hertz(clip[1600:-1600], 16000) == pytest.approx(440, abs=3)
    assert clip.mean() == pytest.approx(0, abs=1e-3)
    assert clip.std() == pytest.approx(1, abs=1e-3)


def test_a_clip_on_the_trained_clock_is_only_normalised():
    samples = tone(16000, 1.0)
    assert np.allclose(prepare_clip(samples, 16000, 25), samples / samples.std(), atol=1e-4)


def test_an_empty_clip_is_refused():
    with pytest.raises(ValueError, match="no sample"):
        prepare_clip(np.empty(0, np.float32), 16000, 20)


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
@pytest.mark.parametrize("block", [0, 1, 2, 7])
def test_a_window_has_one_length_and_is_a_pure_function(rate, block):
    buffer = VoiceBuffer(rate, FPS)
    buffer.append(tone(rate, 15.0))
    window = prepare_window(buffer.window(block))
    assert window.shape == (timeline.AUDIO_WINDOW_FRAMES * 16000 // 25,)
    assert window.dtype == np.float32
    assert np.array_equal(window, prepare_window(buffer.window(block)))
    assert peak_hertz(window[4000:12000], 16000) == pytest.approx(440, abs=3)


def test_a_window_stands_where_the_clip_does():
    """A burst in block 2 is heard at the same place of the window as of the whole clip."""
    rate, block = 16000, 2
    samples = np.zeros(rate * 8, np.float32)
    centre = timeline.block_frames(block)[10] / FPS
    samples[round((centre - 0.05) * rate) : round((centre + 0.05) * rate)] = tone(rate, 0.1, 300)
    buffer = VoiceBuffer(rate, FPS)
    buffer.append(samples)
    start = timeline.audio_window_start(block) * 640
    whole = np.abs(prepare_clip(samples, rate, FPS))[start : start + timeline.AUDIO_WINDOW_FRAMES * 640]
    window = np.abs(prepare_window(buffer.window(block)))

    def middle(x: np.ndarray) -> float:
        return float(np.average(np.arange(len(x)), weights=x**2))

    assert middle(window) == pytest.approx(middle(whole), abs=320)  # half a frame


def test_faint_noise_is_not_blown_up():
    faint = np.random.default_rng(0).normal(0, 1e-4, 16000 * 3).astype(np.float32)
    buffer = VoiceBuffer(16000, FPS)
    buffer.append(faint)
    assert np.abs(prepare_window(buffer.window(0))).max() < 0.1


class CountingEncoder:
    """Gives each row the number of its frame in the window."""

    def encode(self, normalized, frames):
        import torch

        assert normalized.shape == (frames * 640,)
        return torch.arange(frames).view(-1, 1, 1)


@pytest.mark.parametrize("block", [0, 1, 2, 50])
def test_features_are_the_rows_of_the_block_and_two_around_it(block):
    frames = timeline.block_frames(block)
    length = timeline.AUDIO_WINDOW_FRAMES * 16000 // FPS
    voice = BlockVoice(np.zeros(length, np.float32), 16000, FPS, 0.0, 0.0)
    rows = block_features(CountingEncoder(), voice, block)[:, 0, 0] + timeline.audio_window_start(block)
    expected = [max(frame, 0) for frame in range(frames.start - 2, frames.stop + 2)]
    assert rows.tolist() == expected


# The buffer


def blocks_heard(rate: int, chunks: list[tuple[np.ndarray, bool]]) -> list:
    """Everything a buffer answers for the blocks it has sound for, released as a session does."""
    buffer, heard, block = VoiceBuffer(rate, FPS), [], 0
    for samples, voiced in chunks:
        buffer.append(samples, voiced)
        while buffer.ready(block):
            window = buffer.window(block)
            heard.append(
                (hash(window.samples.tobytes()), window.mean, window.std, hash(buffer.played(block).tobytes()))
            )
            buffer.release(block)
            block += 1
    return heard


@settings(max_examples=25, deadline=None)
@given(
    rate=st.sampled_from([8000, 11025, 22050]),
    cuts=st.lists(st.integers(1, 6 * 22050), max_size=30),
    silence=st.tuples(st.integers(0, 40000), st.integers(0, 40000)),
)
def test_chunks_never_show(rate, cuts, silence):
    samples = np.random.default_rng(1).normal(0, 0.2, 6 * rate).astype(np.float32)
    voiced = np.ones(len(samples), bool)
    quiet = slice(min(silence), max(silence))
    samples[quiet], voiced[quiet] = 0, False
    edges = sorted({0, len(samples), min(quiet.start, len(samples)), min(quiet.stop, len(samples))})
    cut_edges = sorted({*edges, *(cut for cut in cuts if cut < len(samples))})

    def chunks(at: list[int]) -> list[tuple[np.ndarray, bool]]:
        return [(samples[a:b], bool(voiced[a])) for a, b in itertools.pairwise(at)]

    heard = blocks_heard(rate, chunks(cut_edges))
    assert len(heard) == 4
    assert heard == blocks_heard(rate, chunks(edges))


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100])
def test_played_sound_tiles_without_a_gap(rate):
    buffer = VoiceBuffer(rate, FPS)
    samples = np.random.default_rng(2).normal(0, 0.2, rate * 8).astype(np.float32)
    buffer.append(samples)
    played = np.concatenate([buffer.played(block) for block in range(4)])
    frames = timeline.block_frames(3).stop
    assert len(played) == round(frames * rate / FPS)
    assert np.array_equal(played, samples[: len(played)])


def test_a_block_is_ready_with_two_frames_more_than_its_own_and_hears_no_further():
    rate = 16000
    samples = np.random.default_rng(3).normal(0, 0.2, rate * 6).astype(np.float32)
    buffer = VoiceBuffer(rate, FPS)
    needed = 23 * rate // FPS
    buffer.append(samples[: needed - 1])
    assert not buffer.ready(0)
    assert buffer.written_frames == 22
    with pytest.raises(ValueError, match="not written"):
        buffer.window(0)
    buffer.append(samples[needed - 1 : needed])
    assert buffer.ready(0)
    assert buffer.written_frames == 23
    early = buffer.window(0)
    buffer.append(samples[needed:])
    late = buffer.window(0)
    assert np.array_equal(early.samples, late.samples)
    assert (early.mean, early.std) == (late.mean, late.std)
    before = 2 * rate // FPS
    assert len(early.samples) == timeline.AUDIO_WINDOW_FRAMES * rate // FPS
    assert not early.samples[:before].any()
    assert np.array_equal(early.samples[before : before + needed], samples[:needed])
    assert not early.samples[before + needed :].any()


def test_statistics_are_those_of_the_voiced_sound_so_far():
    rate = 16000
    loud = np.random.default_rng(4).normal(0.1, 0.3, rate).astype(np.float32)
    buffer = VoiceBuffer(rate, FPS)
    buffer.append(np.zeros(rate, np.float32), voiced=False)
    buffer.append(loud)
    buffer.append(np.ones(rate, np.float32))
    nothing_yet = VoiceBuffer(rate, FPS)
    nothing_yet.append(np.zeros(2 * rate, np.float32), voiced=False)
    assert (nothing_yet.window(0).mean, nothing_yet.window(0).std) == (0.0, 0.0)
    heard = loud[: 3 * rate // FPS]
    first = buffer.window(0)
    assert first.mean == pytest.approx(heard.mean(), rel=1e-4)
    assert first.std == pytest.approx(heard.std(), rel=1e-4)


def test_an_interrupt_forgets_what_was_written_ahead():
    rate = 16000
    old, new = (np.random.default_rng(seed).normal(0, 0.2, rate * 4).astype(np.float32) for seed in (5, 6))
    cut = timeline.block_frames(1).start
    interrupted, plain = VoiceBuffer(rate, FPS), VoiceBuffer(rate, FPS)
    interrupted.append(old)
    interrupted.window(1)  # statistics beyond the cut were added up already
    interrupted.truncate(cut)
    assert interrupted.written_frames == cut
    interrupted.append(new)
    plain.append(old[: cut * rate // FPS])
    plain.append(new)
    for block in (1, 2):
        ours, expected = interrupted.window(block), plain.window(block)
        assert np.array_equal(ours.samples, expected.samples)
        assert (ours.mean, ours.std) == (expected.mean, expected.std)


def test_an_hour_of_sound_is_held_in_seconds_of_memory():
    rate = 8000
    buffer = VoiceBuffer(rate, FPS)
    second = tone(rate, 1.0)
    block, most = 0, 0
    for _ in range(3600):
        buffer.append(second)
        while buffer.ready(block):
            buffer.played(block)
            buffer.release(block)
            block += 1
        most = max(most, buffer.nbytes)
    assert block > 2200
    assert most < 12 * rate * 5
    with pytest.raises(ValueError, match="released"):
        buffer.window(0)
    with pytest.raises(ValueError, match="released"):
        buffer.truncate(10)


def test_releasing_what_is_not_written_is_refused():
    with pytest.raises(ValueError, match="not written"):
        VoiceBuffer(16000, FPS).release(3)
