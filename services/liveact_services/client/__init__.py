"""The Python SDK: open a session, send voice, take in picture and sound, record and measure it."""

from liveact_services.client.client import AvatarClient
from liveact_services.client.conversation import Conversation
from liveact_services.client.decoder import MediaError
from liveact_services.client.recorder import FramePipe, Mp4Recorder, decode_frames
from liveact_services.client.report import StreamReport
from liveact_services.client.request_log import RequestsForgotten
from liveact_services.client.resuming import Outage, ResumeFailed, ResumePolicy
from liveact_services.client.session import AvatarSession
from liveact_services.client.speak import Sink, speak
from liveact_services.client.stream import AvatarStream
from liveact_services.client.voice import LiveVoice, RecordedVoice, Voice, read_voice

__all__ = [
    "AvatarClient",
    "AvatarSession",
    "AvatarStream",
    "Conversation",
    "FramePipe",
    "LiveVoice",
    "MediaError",
    "Mp4Recorder",
    "Outage",
    "RecordedVoice",
    "RequestsForgotten",
    "ResumeFailed",
    "ResumePolicy",
    "Sink",
    "StreamReport",
    "Voice",
    "decode_frames",
    "read_voice",
    "speak",
]
