import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VideoCodec(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VIDEO_CODEC_UNSPECIFIED: _ClassVar[VideoCodec]
    VIDEO_CODEC_H264: _ClassVar[VideoCodec]
    VIDEO_CODEC_JPEG: _ClassVar[VideoCodec]
    VIDEO_CODEC_RGB: _ClassVar[VideoCodec]

class AudioEncoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AUDIO_ENCODING_UNSPECIFIED: _ClassVar[AudioEncoding]
    AUDIO_ENCODING_PCM_S16LE: _ClassVar[AudioEncoding]
    AUDIO_ENCODING_PCM_S24LE: _ClassVar[AudioEncoding]
    AUDIO_ENCODING_PCM_S32LE: _ClassVar[AudioEncoding]
    AUDIO_ENCODING_PCM_F32LE: _ClassVar[AudioEncoding]

class Pacing(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PACING_UNSPECIFIED: _ClassVar[Pacing]
    PACING_REALTIME: _ClassVar[Pacing]
    PACING_FASTEST: _ClassVar[Pacing]

class IdlePolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IDLE_POLICY_UNSPECIFIED: _ClassVar[IdlePolicy]
    IDLE_POLICY_ANIMATE: _ClassVar[IdlePolicy]
    IDLE_POLICY_HOLD: _ClassVar[IdlePolicy]
    IDLE_POLICY_LOOP: _ClassVar[IdlePolicy]

class SessionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SESSION_STATE_UNSPECIFIED: _ClassVar[SessionState]
    SESSION_STATE_ADMITTED: _ClassVar[SessionState]
    SESSION_STATE_READY: _ClassVar[SessionState]
    SESSION_STATE_STREAMING: _ClassVar[SessionState]
    SESSION_STATE_DETACHED: _ClassVar[SessionState]
    SESSION_STATE_CLOSED: _ClassVar[SessionState]
    SESSION_STATE_EXPIRED: _ClassVar[SessionState]
    SESSION_STATE_FAILED: _ClassVar[SessionState]

class EventType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_TYPE_UNSPECIFIED: _ClassVar[EventType]
    EVENT_TYPE_READY: _ClassVar[EventType]
    EVENT_TYPE_SPEECH_STARTED: _ClassVar[EventType]
    EVENT_TYPE_SPEECH_ENDED: _ClassVar[EventType]
    EVENT_TYPE_INTERRUPTED: _ClassVar[EventType]
    EVENT_TYPE_PROMPT_APPLIED: _ClassVar[EventType]
    EVENT_TYPE_IDLE: _ClassVar[EventType]
    EVENT_TYPE_UNDERRUN: _ClassVar[EventType]
    EVENT_TYPE_MIGRATED: _ClassVar[EventType]
    EVENT_TYPE_GOING_AWAY: _ClassVar[EventType]
    EVENT_TYPE_EXPIRING: _ClassVar[EventType]
    EVENT_TYPE_NOTICE: _ClassVar[EventType]
    EVENT_TYPE_CLOSED: _ClassVar[EventType]
    EVENT_TYPE_FAILED: _ClassVar[EventType]
VIDEO_CODEC_UNSPECIFIED: VideoCodec
VIDEO_CODEC_H264: VideoCodec
VIDEO_CODEC_JPEG: VideoCodec
VIDEO_CODEC_RGB: VideoCodec
AUDIO_ENCODING_UNSPECIFIED: AudioEncoding
AUDIO_ENCODING_PCM_S16LE: AudioEncoding
AUDIO_ENCODING_PCM_S24LE: AudioEncoding
AUDIO_ENCODING_PCM_S32LE: AudioEncoding
AUDIO_ENCODING_PCM_F32LE: AudioEncoding
PACING_UNSPECIFIED: Pacing
PACING_REALTIME: Pacing
PACING_FASTEST: Pacing
IDLE_POLICY_UNSPECIFIED: IdlePolicy
IDLE_POLICY_ANIMATE: IdlePolicy
IDLE_POLICY_HOLD: IdlePolicy
IDLE_POLICY_LOOP: IdlePolicy
SESSION_STATE_UNSPECIFIED: SessionState
SESSION_STATE_ADMITTED: SessionState
SESSION_STATE_READY: SessionState
SESSION_STATE_STREAMING: SessionState
SESSION_STATE_DETACHED: SessionState
SESSION_STATE_CLOSED: SessionState
SESSION_STATE_EXPIRED: SessionState
SESSION_STATE_FAILED: SessionState
EVENT_TYPE_UNSPECIFIED: EventType
EVENT_TYPE_READY: EventType
EVENT_TYPE_SPEECH_STARTED: EventType
EVENT_TYPE_SPEECH_ENDED: EventType
EVENT_TYPE_INTERRUPTED: EventType
EVENT_TYPE_PROMPT_APPLIED: EventType
EVENT_TYPE_IDLE: EventType
EVENT_TYPE_UNDERRUN: EventType
EVENT_TYPE_MIGRATED: EventType
EVENT_TYPE_GOING_AWAY: EventType
EVENT_TYPE_EXPIRING: EventType
EVENT_TYPE_NOTICE: EventType
EVENT_TYPE_CLOSED: EventType
EVENT_TYPE_FAILED: EventType

class StreamAvatarRequest(_message.Message):
    __slots__ = ("config", "audio", "end_utterance", "interrupt", "update", "ack", "close")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    END_UTTERANCE_FIELD_NUMBER: _ClassVar[int]
    INTERRUPT_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    config: SessionConfig
    audio: AudioChunk
    end_utterance: EndUtterance
    interrupt: Interrupt
    update: Update
    ack: Ack
    close: Close
    def __init__(self, config: _Optional[_Union[SessionConfig, _Mapping]] = ..., audio: _Optional[_Union[AudioChunk, _Mapping]] = ..., end_utterance: _Optional[_Union[EndUtterance, _Mapping]] = ..., interrupt: _Optional[_Union[Interrupt, _Mapping]] = ..., update: _Optional[_Union[Update, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., close: _Optional[_Union[Close, _Mapping]] = ...) -> None: ...

class SessionConfig(_message.Message):
    __slots__ = ("image", "avatar", "prompt", "width", "height", "fps", "audio_format", "codec", "pacing", "idle_policy", "seed", "resume", "consent", "watermark")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    AVATAR_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    FPS_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FORMAT_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    PACING_FIELD_NUMBER: _ClassVar[int]
    IDLE_POLICY_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    WATERMARK_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    avatar: str
    prompt: str
    width: int
    height: int
    fps: int
    audio_format: AudioFormat
    codec: VideoCodec
    pacing: Pacing
    idle_policy: IdlePolicy
    seed: int
    resume: Resume
    consent: str
    watermark: Watermark
    def __init__(self, image: _Optional[bytes] = ..., avatar: _Optional[str] = ..., prompt: _Optional[str] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., fps: _Optional[int] = ..., audio_format: _Optional[_Union[AudioFormat, _Mapping]] = ..., codec: _Optional[_Union[VideoCodec, str]] = ..., pacing: _Optional[_Union[Pacing, str]] = ..., idle_policy: _Optional[_Union[IdlePolicy, str]] = ..., seed: _Optional[int] = ..., resume: _Optional[_Union[Resume, _Mapping]] = ..., consent: _Optional[str] = ..., watermark: _Optional[_Union[Watermark, _Mapping]] = ...) -> None: ...

class Watermark(_message.Message):
    __slots__ = ("visible", "invisible")
    VISIBLE_FIELD_NUMBER: _ClassVar[int]
    INVISIBLE_FIELD_NUMBER: _ClassVar[int]
    visible: bool
    invisible: bool
    def __init__(self, visible: _Optional[bool] = ..., invisible: _Optional[bool] = ...) -> None: ...

class Resume(_message.Message):
    __slots__ = ("token", "next_frame")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    NEXT_FRAME_FIELD_NUMBER: _ClassVar[int]
    token: str
    next_frame: int
    def __init__(self, token: _Optional[str] = ..., next_frame: _Optional[int] = ...) -> None: ...

class AudioFormat(_message.Message):
    __slots__ = ("sample_rate_hz", "channels", "encoding")
    SAMPLE_RATE_HZ_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    sample_rate_hz: int
    channels: int
    encoding: AudioEncoding
    def __init__(self, sample_rate_hz: _Optional[int] = ..., channels: _Optional[int] = ..., encoding: _Optional[_Union[AudioEncoding, str]] = ...) -> None: ...

class AudioChunk(_message.Message):
    __slots__ = ("data", "utterance_id", "sequence")
    DATA_FIELD_NUMBER: _ClassVar[int]
    UTTERANCE_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    utterance_id: str
    sequence: int
    def __init__(self, data: _Optional[bytes] = ..., utterance_id: _Optional[str] = ..., sequence: _Optional[int] = ...) -> None: ...

class EndUtterance(_message.Message):
    __slots__ = ("utterance_id",)
    UTTERANCE_ID_FIELD_NUMBER: _ClassVar[int]
    utterance_id: str
    def __init__(self, utterance_id: _Optional[str] = ...) -> None: ...

class Interrupt(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Update(_message.Message):
    __slots__ = ("prompt", "from_pts_us")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    FROM_PTS_US_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    from_pts_us: int
    def __init__(self, prompt: _Optional[str] = ..., from_pts_us: _Optional[int] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("next_frame",)
    NEXT_FRAME_FIELD_NUMBER: _ClassVar[int]
    next_frame: int
    def __init__(self, next_frame: _Optional[int] = ...) -> None: ...

class Close(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StreamAvatarResponse(_message.Message):
    __slots__ = ("session", "video", "audio", "event")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    VIDEO_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    session: Session
    video: VideoChunk
    audio: AudioSpan
    event: Event
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., video: _Optional[_Union[VideoChunk, _Mapping]] = ..., audio: _Optional[_Union[AudioSpan, _Mapping]] = ..., event: _Optional[_Union[Event, _Mapping]] = ...) -> None: ...

class Session(_message.Message):
    __slots__ = ("name", "state", "create_time", "expire_time", "width", "height", "fps", "audio_format", "codec", "pacing", "idle_policy", "resume_token", "credit_frames", "playout_delay", "frames", "checkpoint", "next_sequence", "next_request", "watermark")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    FPS_FIELD_NUMBER: _ClassVar[int]
    AUDIO_FORMAT_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    PACING_FIELD_NUMBER: _ClassVar[int]
    IDLE_POLICY_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FRAMES_FIELD_NUMBER: _ClassVar[int]
    PLAYOUT_DELAY_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NEXT_REQUEST_FIELD_NUMBER: _ClassVar[int]
    WATERMARK_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: SessionState
    create_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    width: int
    height: int
    fps: int
    audio_format: AudioFormat
    codec: VideoCodec
    pacing: Pacing
    idle_policy: IdlePolicy
    resume_token: str
    credit_frames: int
    playout_delay: _duration_pb2.Duration
    frames: int
    checkpoint: str
    next_sequence: int
    next_request: int
    watermark: Watermark
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[SessionState, str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., fps: _Optional[int] = ..., audio_format: _Optional[_Union[AudioFormat, _Mapping]] = ..., codec: _Optional[_Union[VideoCodec, str]] = ..., pacing: _Optional[_Union[Pacing, str]] = ..., idle_policy: _Optional[_Union[IdlePolicy, str]] = ..., resume_token: _Optional[str] = ..., credit_frames: _Optional[int] = ..., playout_delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., frames: _Optional[int] = ..., checkpoint: _Optional[str] = ..., next_sequence: _Optional[int] = ..., next_request: _Optional[int] = ..., watermark: _Optional[_Union[Watermark, _Mapping]] = ...) -> None: ...

class VideoChunk(_message.Message):
    __slots__ = ("frames", "block", "times")
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedCompositeFieldContainer[VideoFrame]
    block: int
    times: StageTimes
    def __init__(self, frames: _Optional[_Iterable[_Union[VideoFrame, _Mapping]]] = ..., block: _Optional[int] = ..., times: _Optional[_Union[StageTimes, _Mapping]] = ...) -> None: ...

class StageTimes(_message.Message):
    __slots__ = ("audio_us", "denoise_us", "decode_us", "encode_us")
    AUDIO_US_FIELD_NUMBER: _ClassVar[int]
    DENOISE_US_FIELD_NUMBER: _ClassVar[int]
    DECODE_US_FIELD_NUMBER: _ClassVar[int]
    ENCODE_US_FIELD_NUMBER: _ClassVar[int]
    audio_us: int
    denoise_us: int
    decode_us: int
    encode_us: int
    def __init__(self, audio_us: _Optional[int] = ..., denoise_us: _Optional[int] = ..., decode_us: _Optional[int] = ..., encode_us: _Optional[int] = ...) -> None: ...

class VideoFrame(_message.Message):
    __slots__ = ("index", "pts_us", "key_frame", "codec", "data", "utterance_id")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PTS_US_FIELD_NUMBER: _ClassVar[int]
    KEY_FRAME_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    UTTERANCE_ID_FIELD_NUMBER: _ClassVar[int]
    index: int
    pts_us: int
    key_frame: bool
    codec: VideoCodec
    data: bytes
    utterance_id: str
    def __init__(self, index: _Optional[int] = ..., pts_us: _Optional[int] = ..., key_frame: _Optional[bool] = ..., codec: _Optional[_Union[VideoCodec, str]] = ..., data: _Optional[bytes] = ..., utterance_id: _Optional[str] = ...) -> None: ...

class AudioSpan(_message.Message):
    __slots__ = ("pts_us", "data", "block", "next_request")
    PTS_US_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    NEXT_REQUEST_FIELD_NUMBER: _ClassVar[int]
    pts_us: int
    data: bytes
    block: int
    next_request: int
    def __init__(self, pts_us: _Optional[int] = ..., data: _Optional[bytes] = ..., block: _Optional[int] = ..., next_request: _Optional[int] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("type", "pts_us", "utterance_id", "block", "interrupted", "reason", "message", "migrated")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PTS_US_FIELD_NUMBER: _ClassVar[int]
    UTTERANCE_ID_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    INTERRUPTED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    MIGRATED_FIELD_NUMBER: _ClassVar[int]
    type: EventType
    pts_us: int
    utterance_id: str
    block: int
    interrupted: Interrupted
    reason: str
    message: str
    migrated: Migrated
    def __init__(self, type: _Optional[_Union[EventType, str]] = ..., pts_us: _Optional[int] = ..., utterance_id: _Optional[str] = ..., block: _Optional[int] = ..., interrupted: _Optional[_Union[Interrupted, _Mapping]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., migrated: _Optional[_Union[Migrated, _Mapping]] = ...) -> None: ...

class Migrated(_message.Message):
    __slots__ = ("stall",)
    STALL_FIELD_NUMBER: _ClassVar[int]
    stall: _duration_pb2.Duration
    def __init__(self, stall: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Interrupted(_message.Message):
    __slots__ = ("played", "discarded", "next_request")
    PLAYED_FIELD_NUMBER: _ClassVar[int]
    DISCARDED_FIELD_NUMBER: _ClassVar[int]
    NEXT_REQUEST_FIELD_NUMBER: _ClassVar[int]
    played: _duration_pb2.Duration
    discarded: _duration_pb2.Duration
    next_request: int
    def __init__(self, played: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., discarded: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., next_request: _Optional[int] = ...) -> None: ...

class Avatar(_message.Message):
    __slots__ = ("name", "display_name", "create_time", "source_width", "source_height", "consent")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    SOURCE_WIDTH_FIELD_NUMBER: _ClassVar[int]
    SOURCE_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    name: str
    display_name: str
    create_time: _timestamp_pb2.Timestamp
    source_width: int
    source_height: int
    consent: str
    def __init__(self, name: _Optional[str] = ..., display_name: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., source_width: _Optional[int] = ..., source_height: _Optional[int] = ..., consent: _Optional[str] = ...) -> None: ...

class CreateAvatarRequest(_message.Message):
    __slots__ = ("image", "display_name", "consent")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    display_name: str
    consent: str
    def __init__(self, image: _Optional[bytes] = ..., display_name: _Optional[str] = ..., consent: _Optional[str] = ...) -> None: ...

class CreateAvatarResponse(_message.Message):
    __slots__ = ("avatar",)
    AVATAR_FIELD_NUMBER: _ClassVar[int]
    avatar: Avatar
    def __init__(self, avatar: _Optional[_Union[Avatar, _Mapping]] = ...) -> None: ...

class ListAvatarsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListAvatarsResponse(_message.Message):
    __slots__ = ("avatars",)
    AVATARS_FIELD_NUMBER: _ClassVar[int]
    avatars: _containers.RepeatedCompositeFieldContainer[Avatar]
    def __init__(self, avatars: _Optional[_Iterable[_Union[Avatar, _Mapping]]] = ...) -> None: ...

class DeleteAvatarRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteAvatarResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetSessionRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class ListSessionsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListSessionsResponse(_message.Message):
    __slots__ = ("sessions",)
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[Session]
    def __init__(self, sessions: _Optional[_Iterable[_Union[Session, _Mapping]]] = ...) -> None: ...

class DeleteSessionRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteSessionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("version", "preset", "checkpoint", "min_side", "max_side", "default_width", "default_height", "codecs", "sample_rates_hz", "sessions")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PRESET_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    MIN_SIDE_FIELD_NUMBER: _ClassVar[int]
    MAX_SIDE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_WIDTH_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    CODECS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATES_HZ_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    version: str
    preset: str
    checkpoint: str
    min_side: int
    max_side: int
    default_width: int
    default_height: int
    codecs: _containers.RepeatedScalarFieldContainer[VideoCodec]
    sample_rates_hz: _containers.RepeatedScalarFieldContainer[int]
    sessions: int
    def __init__(self, version: _Optional[str] = ..., preset: _Optional[str] = ..., checkpoint: _Optional[str] = ..., min_side: _Optional[int] = ..., max_side: _Optional[int] = ..., default_width: _Optional[int] = ..., default_height: _Optional[int] = ..., codecs: _Optional[_Iterable[_Union[VideoCodec, str]]] = ..., sample_rates_hz: _Optional[_Iterable[int]] = ..., sessions: _Optional[int] = ...) -> None: ...
