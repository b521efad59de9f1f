"""The Python SDK: open a session, send voice, take in picture and sound, record and measure it."""

from liveact_services.client.blocking import BlockingClient, BlockingSession
from liveact_services.client.client import AvatarClient
from liveact_services.client.conversation import Conversation
from liveact_services.client.decoder import MediaError
from liveact_services.client.playback import Moment, play
from liveact_services.client.recorder import FramePipe, Mp4Recorder, decode_frames
from liveact_services.client.report import StreamReport
from liveact_services.client.request_log import RequestsForgotten
from liveact_services.client.resuming import Outage, ResumeFailed, ResumePolicy
from liveact_services.client.session import AvatarSession
from liveact_services.client.speak import Sink, speak
from liveact_services.client.stream import AvatarStream
from liveact_services.client.voice import LiveVoice, RecordedVoice, Voice, read_voice
from liveact_services.errors import (
    BadInput,
    ClientError,
    DataLost,
    DeadlineExceeded,
    Exhausted,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    Unavailable,
    WrongState,
)

__all__ = [
    "AvatarClient",
    "AvatarSession",
    "AvatarStream",
    "BadInput",
    "BlockingClient",
    "BlockingSession",
    "ClientError",
    "Conversation",
    "DataLost",
    "DeadlineExceeded",
    "Exhausted",
    "FramePipe",
    "LiveVoice",
    "MediaError",
    "Moment",
    "Mp4Recorder",
    "NotAllowed",
    "NotAuthenticated",
    "NotFound",
    "Outage",
    "RecordedVoice",
    "RequestsForgotten",
    "ResumeFailed",
    "ResumePolicy",
    "Sink",
    "StreamReport",
    "Unavailable",
    "Voice",
    "WrongState",
    "decode_frames",
    "play",
    "read_voice",
    "speak",
]
