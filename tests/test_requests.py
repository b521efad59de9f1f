"""What clients send becomes the service's own values, or an error that says what is accepted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from liveact.v1 import avatar_pb2 as pb
from liveact_models.config import DEFAULT_PROMPT, preset
from liveact_services.conductor.outputs import Happening
from liveact_services.conductor.stages import Codec, Idle, Pacing
from liveact_services.config import SessionLimits
from liveact_services.errors import ServiceError
from liveact_services.gateway import requests
from liveact_services.gateway.requests import VoiceFormat

TINY, LARGE, LIMITS = preset("tiny"), preset("soulx-liveact-18b"), SessionLimits()
MONO = VoiceFormat(16000, 1, "s16le")


def spec(model=TINY, **config):  # type: ignore[no-untyped-def]
    return requests.session_spec(pb.SessionConfig(**config), "s", model, LIMITS)


def test_an_empty_config_means_the_presets_defaults() -> None:
    made = spec()
    assert (made.width, made.height, made.fps, made.rate) == (*TINY.limits.default, TINY.fps, 16000)
    assert (made.codec, made.pacing, made.idle) == (Codec.H264, Pacing.REALTIME, Idle.ANIMATE)
    assert (made.prompt, made.seed) == (DEFAULT_PROMPT, 0)


def test_what_is_asked_for_is_what_is_agreed() -> None:
    made = spec(
        width=64, height=96, fps=30, codec=pb.VIDEO_CODEC_JPEG, pacing=pb.PACING_FASTEST, seed=2**64 - 1,
        idle_policy=pb.IDLE_POLICY_HOLD, prompt="  she smiles\n", audio_format=pb.AudioFormat(sample_rate_hz=48000),
    )  # fmt: skip
    assert (made.width, made.height, made.fps, made.rate) == (64, 96, 30, 48000)
    assert (made.codec, made.pacing, made.idle) == (Codec.JPEG, Pacing.FASTEST, Idle.HOLD)
    assert (made.prompt, made.seed) == ("she smiles", 2**64 - 1)


@pytest.mark.parametrize(
    ("reason", "make"),
    [
        ("SIZE_UNSUPPORTED", lambda: spec(width=64)),
        ("SIZE_UNSUPPORTED", lambda: spec(width=40, height=40)),
        ("SIZE_UNSUPPORTED", lambda: spec(width=-64, height=64)),
        ("SIZE_UNSUPPORTED", lambda: spec(width=512, height=512)),
        ("FPS_UNSUPPORTED", lambda: spec(fps=9)),
        ("FPS_UNSUPPORTED", lambda: spec(fps=31)),
        ("FPS_UNSUPPORTED", lambda: spec(fps=-20)),
        ("CODEC_UNSUPPORTED", lambda: spec(codec=9)),
        ("CODEC_UNSUPPORTED", lambda: spec(LARGE, width=720, height=720, codec=pb.VIDEO_CODEC_RGB)),
        ("PACING_UNSUPPORTED", lambda: spec(pacing=9)),
        ("IDLE_POLICY_UNSUPPORTED", lambda: spec(idle_policy=9)),
        ("PROMPT_TOO_LONG", lambda: spec(prompt="é" * 2049)),
        ("PROMPT_NOT_TEXT", lambda: spec(prompt="a\x00b")),
        ("AUDIO_RATE_UNSUPPORTED", lambda: spec(audio_format=pb.AudioFormat(sample_rate_hz=11025))),
        ("AUDIO_RATE_UNSUPPORTED", lambda: spec(audio_format=pb.AudioFormat(sample_rate_hz=-1))),
        ("AUDIO_CHANNELS_UNSUPPORTED", lambda: spec(audio_format=pb.AudioFormat(channels=3))),
        ("AUDIO_ENCODING_UNSUPPORTED", lambda: spec(audio_format=pb.AudioFormat(encoding=9))),
        ("UTTERANCE_ID_INVALID", lambda: requests.utterance_id("")),
        ("UTTERANCE_ID_INVALID", lambda: requests.utterance_id("x" * 65)),
        ("MEDIA_TIME_NEGATIVE", lambda: requests.media_time(-1)),
        ("IMAGE_EMPTY", lambda: requests.portrait(b"", 64, 64)),
    ],
)
def test_what_is_not_accepted_is_refused_with_its_reason(reason: str, make: Callable[[], object]) -> None:
    with pytest.raises(ServiceError) as caught:
        make()
    assert caught.value.reason == reason


def test_the_largest_accepted_raw_frame_is_accepted() -> None:
    assert spec(LARGE, width=720, height=416, codec=pb.VIDEO_CODEC_RGB).codec is Codec.RGB


def chunk(data: bytes, utterance: str = "u") -> pb.AudioChunk:
    return pb.AudioChunk(data=data, utterance_id=utterance)


def test_voice_is_read_as_agreed() -> None:
    samples, notice = requests.voice(chunk(np.array([16384, -32768, 0], "<i2").tobytes()), MONO)
    assert samples.dtype == np.float32
    assert samples.tolist() == [0.5, -1.0, 0.0]
    stereo = np.array([0.5, -0.5, 0.25, 0.75], "<f4").tobytes()
    samples, notice = requests.voice(chunk(stereo), VoiceFormat(48000, 2, "f32le"))
    assert samples.tolist() == [0.0, 0.5]
    assert notice is None


def test_clipped_voice_is_accepted_with_a_notice() -> None:
    samples, notice = requests.voice(chunk(np.full(100, 32767, "<i2").tobytes()), MONO)
    assert len(samples) == 100
    assert notice is not None
    assert (notice.kind, notice.reason, notice.utterance) == (Happening.NOTICE, "AUDIO_CLIPPED", "u")


@pytest.mark.parametrize(
    ("reason", "data", "audio"),
    [
        ("AUDIO_EMPTY", b"", MONO),
        ("AUDIO_ODD_BYTES", b"123", MONO),
        ("AUDIO_ODD_BYTES", b"12", VoiceFormat(16000, 2, "s16le")),
        ("AUDIO_TOO_LONG", bytes(1024 * 1024 + 2), MONO),
        ("AUDIO_NOT_FINITE", np.array([0.1, np.nan], "<f4").tobytes(), VoiceFormat(16000, 1, "f32le")),
        ("AUDIO_OUT_OF_RANGE", np.array([1e9], "<f4").tobytes(), VoiceFormat(16000, 1, "f32le")),
    ],
)
def test_voice_that_does_not_read_is_refused(reason: str, data: bytes, audio: VoiceFormat) -> None:
    with pytest.raises(ServiceError) as caught:
        requests.voice(chunk(data), audio)
    assert caught.value.reason == reason


def test_media_time_is_seconds() -> None:
    assert requests.media_time(1_050_000) == 1.05
