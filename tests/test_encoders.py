"""The encoders: shapes, clocks and what they do before the pretrained model sees anything."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from liveact_models import timeline
from liveact_models.checkpoint import open_checkpoint
from liveact_models.config import PRESETS, AudioEncoderConfig, ConfigError
from liveact_models.encoders import load_tokenizer
from liveact_models.encoders.image import MEAN, STD
from liveact_models.encoders.log_mel import LogMelExtractor, mel_bands
from liveact_models.voice import VoiceBuffer, block_features

TINY = PRESETS["tiny"]
MEL = AudioEncoderConfig(mel_bands=40, conv_dim=(128, 64), conv_kernel=(4, 2), conv_stride=(2, 1))
CHECKPOINT = open_checkpoint("untrained", TINY)


@pytest.fixture(scope="module")
def audio():
    return CHECKPOINT.load_audio_encoder()


@pytest.fixture(scope="module")
def text():
    return CHECKPOINT.load_text_encoder()


@pytest.fixture(scope="module")
def image():
    return CHECKPOINT.load_image_encoder()


@pytest.mark.parametrize("frames", [1, 25, 57])
def test_sound_has_one_row_a_frame_and_one_column_a_layer(audio, frames):
    features = audio.encode(torch.randn(frames * 800), frames)
    assert features.shape == (frames, TINY.audio_encoder.num_hidden_layers, TINY.audio_encoder.hidden_size)
    assert features.isfinite().all()


def test_sound_shows_in_its_own_frames(audio):
    sound, other = torch.randn(2, 57 * 640, generator=torch.Generator().manual_seed(0))
    changed = sound.clone()
    changed[30 * 640 : 34 * 640] = other[: 4 * 640]
    moved = (audio.encode(changed, 57) - audio.encode(sound, 57))[:, 0].norm(dim=-1)
    assert 30 <= moved.argmax() < 34
    assert moved[30:34].mean() > 2 * moved[:20].mean()


@pytest.mark.parametrize(("samples", "frames"), [(799, 1), (800, 0)])
def test_too_little_sound_is_refused(audio, samples, frames):
    assert TINY.audio_encoder.least_samples == 800
    assert PRESETS["soulx-liveact-18b"].audio_encoder.least_samples == 400
    with pytest.raises(ValueError, match="800 samples"):
        audio.encode(torch.zeros(samples), frames)


@pytest.fixture(scope="module")
def log_mel():
    torch.manual_seed(0)
    return LogMelExtractor(MEL).eval()


def test_every_band_hears_its_own_tone():
    bands = mel_bands(MEL.mel_bands)
    assert bands.shape == (201, MEL.mel_bands)
    assert (bands >= 0).all()
    assert (bands.sum(dim=1)[2:-1] > 0).all()  # no frequency between 80 Hz and 8 kHz is lost
    assert (bands.argmax(dim=0).diff() >= 0).all()


def test_log_mel_features_stand_where_the_sound_is(log_mel):
    sound = 1e-3 * torch.randn(1, 45600, generator=torch.Generator().manual_seed(0))
    tone = sound.clone()
    tone[0, 24000:24800] += torch.sin(torch.arange(800) * 0.4)  # video frame 30 of 57
    features = log_mel(sound)
    assert features.shape == (1, 64, 141)
    moved = (log_mel(tone) - features).detach().abs().mean(dim=1)[0]
    by_frame = torch.nn.functional.interpolate(moved[None, None], size=57, mode="linear", align_corners=True)[0, 0]
    assert by_frame.argmax() == 30
    assert float(by_frame[29]) == pytest.approx(float(by_frame[31]), rel=0.3)
    assert log_mel(torch.zeros(1, MEL.least_samples)).shape == (1, 64, 1)
    with pytest.raises(RuntimeError):
        log_mel(torch.zeros(1, MEL.least_samples - 1))


def test_faint_noise_stays_faint(log_mel):
    """The norm over a window does not turn what is under the floor into speech."""
    noise = torch.randn(1, 45600, generator=torch.Generator().manual_seed(0))
    assert log_mel.loudness(1e-4 * noise).std() < 0.05 * log_mel.loudness(noise * (noise > 0)).std()


def test_a_block_is_heard_whole(audio):
    buffer = VoiceBuffer(24000, TINY.fps)
    buffer.append(np.random.default_rng(0).normal(0, 0.1, 24000 * 4).astype(np.float32))
    first, second = (block_features(audio, buffer.window(block), block) for block in (0, 1))
    assert len(first) == timeline.FIRST_BLOCK_FRAMES + 4
    assert len(second) == timeline.BLOCK_FRAMES + 4
    assert torch.equal(first[0], first[2])  # frames before the start have frame 0's features
    assert not torch.equal(first[2], first[3])


def test_whitespace_counts_once_and_long_prompts_are_cut(text):
    plain = text.encode("a woman smiles", 32)
    assert plain.shape == (15, TINY.text_encoder.dim)  # a byte a token, and the end mark
    assert torch.equal(plain, text.encode("  a woman\n\tsmiles ", 32))
    assert not torch.equal(plain, text.encode("a woman smiled", 32))
    assert len(text.encode("x" * 100_000, 32)) == 32
    assert text.encode("", 32).shape == (1, TINY.text_encoder.dim)


def test_a_tokenizer_without_files_is_named(tmp_path):
    with pytest.raises(OSError, match="umt5-xxl"):
        load_tokenizer(dataclasses.replace(TINY.text_encoder, tokenizer="umt5"), tmp_path)
    with pytest.raises(ConfigError, match="'umt5', 'bpe', 'bytes'"):
        load_tokenizer(dataclasses.replace(TINY.text_encoder, tokenizer="words"), tmp_path)


def test_the_image_gives_one_token_a_patch_and_the_class_token(image):
    config = TINY.image_encoder
    tokens = image.encode(torch.zeros(3, 48, 64))
    assert tokens.shape == ((config.image_size // config.patch_size) ** 2 + 1, config.dim)
    assert tokens.isfinite().all()
    assert len(image.encoder.layers) == config.num_layers - 1


def test_pixels_are_normalised_as_clip_was_trained(image, monkeypatch):
    seen = {}
    monkeypatch.setattr(image, "encode_pixels", lambda pixels: seen.setdefault("pixels", pixels))
    image.encode(torch.full((3, 20, 30), 0.5))
    assert seen["pixels"].shape == (1, 3, 112, 112)
    expected = [(0.75 - mean) / std for mean, std in zip(MEAN, STD, strict=True)]
    assert torch.allclose(seen["pixels"][0].mean(dim=(1, 2)), torch.tensor(expected), atol=1e-5)
