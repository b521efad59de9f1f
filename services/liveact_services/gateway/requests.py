"""What clients send, checked: a request becomes the service's own values or a `ServiceError` that says what is accepted."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from liveact.v1 import avatar_pb2 as pb
from liveact_models.config import DEFAULT_PROMPT, ConfigError, ModelConfig, check_size
from liveact_models.portrait import Portrait, PortraitError, prepare_portrait
from liveact_models.voice import VoiceError, clipped_fraction, decode_pcm
from liveact_models.voice.source import RATES as SAMPLE_RATES
from liveact_services.conductor.outputs import Event, Happening
from liveact_services.conductor.stages import Codec, Idle, Pacing, SessionSpec
from liveact_services.config import SessionLimits
from liveact_services.errors import fail
from liveact_services.gateway.messages import CODECS, ENCODINGS, IDLE_POLICIES, MAX_MESSAGE_BYTES, PACINGS
from liveact_services.tenants import DEFAULT_TENANT, Tenant
from liveact_services.tenants.rules import Rules, TrustConfig

MAX_AUDIO_BYTES = 1024 * 1024
CLIPPED_FRACTION = 0.01
"""Share of samples at full scale from which a client is told that its voice is clipped."""
FPS_RANGE = (10, 30)

E = TypeVar("E")


@dataclass(frozen=True)
class VoiceFormat:
    """How a session's voice bytes are read."""

    rate: int
    channels: int
    encoding: str


async def first_config(stream: AsyncIterator[pb.StreamAvatarRequest], within_s: float) -> pb.SessionConfig:
    """What a stream begins with. Raises `ServiceError`: CONFIG_TIMEOUT and CONFIG_MISSING."""
    try:
        first = await asyncio.wait_for(anext(stream), within_s)
    except TimeoutError:
        raise fail("CONFIG_TIMEOUT", f"no config came within {within_s:.0f} s") from None
    except StopAsyncIteration:
        raise fail("CONFIG_MISSING", "the stream ended before its config") from None
    if not first.HasField("config"):
        raise fail("CONFIG_MISSING", f"the first message is {first.WhichOneof('payload') or 'empty'}, not config")
    return first.config


def session_spec(
    config: pb.SessionConfig, session: str, model: ModelConfig, limits: SessionLimits, tenant: Tenant = DEFAULT_TENANT
) -> SessionSpec:
    """The session a config asks for, on behalf of a tenant. Raises `ServiceError`."""
    width, height = config.width, config.height
    if width == 0 and height == 0:
        width, height = model.limits.default
    try:
        check_size(model, width, height)
    except ConfigError as error:
        raise fail("SIZE_UNSUPPORTED", str(error)) from None
    _check_quota(width, height, tenant)
    codec = _choice(config.codec, CODECS, Codec.H264, "CODEC_UNSUPPORTED", pb.VideoCodec.Name)
    if codec is Codec.RGB and (size := width * height * 3) > MAX_MESSAGE_BYTES:
        raise fail("CODEC_UNSUPPORTED", f"raw frames of {width}x{height}: {size} bytes do not go into one message")
    fps = config.fps or model.fps
    if not FPS_RANGE[0] <= fps <= FPS_RANGE[1]:
        raise fail("FPS_UNSUPPORTED", f"fps {fps}: accepted are {FPS_RANGE[0]} to {FPS_RANGE[1]}")
    return SessionSpec(
        session=session, width=width, height=height, fps=fps,
        codec=codec,
        pacing=_choice(config.pacing, PACINGS, Pacing.REALTIME, "PACING_UNSUPPORTED", pb.Pacing.Name),
        idle=_choice(config.idle_policy, IDLE_POLICIES, Idle.ANIMATE, "IDLE_POLICY_UNSUPPORTED", pb.IdlePolicy.Name),
        seed=config.seed, prompt=prompt_text(config.prompt, limits) or DEFAULT_PROMPT,
        rate=voice_format(config.audio_format).rate,
        tenant=tenant.id, weight=tenant.weight, pool=tenant.pool,
    )  # fmt: skip


def marked(spec: SessionSpec, config: pb.SessionConfig, trust: TrustConfig, rules: Rules) -> SessionSpec:
    """The session with the marks that its pictures carry: what the tenant's rules ask for, and what the client does."""
    visible = rules.visible_watermark or config.watermark.visible
    invisible = rules.invisible_watermark or config.watermark.invisible
    label, mark = trust.label if visible else "", spec.session if invisible else ""
    return replace(spec, label=label, corner=trust.corner, mark=mark)


def voice_format(audio: pb.AudioFormat) -> VoiceFormat:
    """How the session's voice is read. Raises `ServiceError`."""
    rate, channels = audio.sample_rate_hz or 16000, audio.channels or 1
    if rate not in SAMPLE_RATES:
        accepted = ", ".join(str(r) for r in SAMPLE_RATES)
        raise fail("AUDIO_RATE_UNSUPPORTED", f"sample rate {rate}: accepted are {accepted}")
    if channels not in (1, 2):
        raise fail("AUDIO_CHANNELS_UNSUPPORTED", f"{channels} channels: accepted are 1 and 2")
    if audio.encoding not in ENCODINGS:
        raise fail(
            "AUDIO_ENCODING_UNSUPPORTED", f"audio encoding {audio.encoding}: accepted are 1 to 4, see AudioEncoding"
        )
    return VoiceFormat(rate, channels, ENCODINGS[audio.encoding])


def portrait(data: bytes, width: int, height: int) -> Portrait:
    """The picture at the session's size. Raises `ServiceError` with the portrait's own reason."""
    try:
        return prepare_portrait(data, width, height)
    except PortraitError as error:
        raise fail(error.reason, str(error)) from None


def voice(chunk: pb.AudioChunk, audio: VoiceFormat) -> tuple[np.ndarray, Event | None]:
    """A piece of voice, float32 [n], and a notice when it is clipped. Raises `ServiceError`."""
    utterance_id(chunk.utterance_id)
    if len(chunk.data) > MAX_AUDIO_BYTES:
        raise fail("AUDIO_TOO_LONG", f"{len(chunk.data)} bytes of voice in one message: accepted are {MAX_AUDIO_BYTES}")
    if not chunk.data:
        raise fail("AUDIO_EMPTY", "a piece of voice holds no sample")
    try:
        samples = decode_pcm(chunk.data, rate=audio.rate, channels=audio.channels, encoding=audio.encoding)
    except VoiceError as error:
        raise fail(error.reason, str(error)) from None
    if (clipped := clipped_fraction(samples)) > CLIPPED_FRACTION:
        text = f"{clipped:.0%} of the samples are at full scale"
        return samples, Event(Happening.NOTICE, utterance=chunk.utterance_id, reason="AUDIO_CLIPPED", message=text)
    return samples, None


def utterance_id(name: str) -> str:
    """Raises `ServiceError` unless 1 to 64 characters."""
    if not 1 <= len(name) <= 64:
        raise fail("UTTERANCE_ID_INVALID", f"utterance id of {len(name)} characters: accepted are 1 to 64")
    return name


def prompt_text(prompt: str, limits: SessionLimits) -> str:
    """The prompt with its ends trimmed. Raises `ServiceError`."""
    size = len(prompt.encode())
    if size > limits.max_prompt_bytes:
        raise fail("PROMPT_TOO_LONG", f"prompt of {size} bytes: accepted are {limits.max_prompt_bytes}")
    if any(unicodedata.category(c) == "Cc" and c not in "\t\n\r" for c in prompt):
        raise fail("PROMPT_NOT_TEXT", "the prompt holds control characters")
    return prompt.strip()


def media_time(microseconds: int) -> float:
    """Seconds. Raises `ServiceError` for a negative time."""
    if microseconds < 0:
        raise fail("MEDIA_TIME_NEGATIVE", f"media time {microseconds}: accepted are 0 and above")
    return microseconds / 1_000_000


def _check_quota(width: int, height: int, tenant: Tenant) -> None:
    sides = (("width", width, tenant.quotas.width), ("height", height, tenant.quotas.height))
    for name, asked, most in sides:
        if most is not None and asked > most:
            raise fail(
                "QUOTA_FRAME_SIZE", f"{name} {asked}: this tenant may have {most}",
                field=f"config.{name}", quota_subject=f"tenant:{tenant.id}",
            )  # fmt: skip


def _choice(value: int, table: Mapping[E, int], default: E, reason: str, name: Callable[[int], str]) -> E:
    if value == 0:
        return default
    for choice, number in table.items():
        if number == value:
            return choice
    accepted = ", ".join(name(number) for number in table.values())
    raise fail(reason, f"value {value} is unknown: accepted are {accepted}")
