"""The Python SDK: open a session, send voice, take in picture and sound, record and measure it."""

from liveact_services.client.decoder import MediaError
from liveact_services.client.recorder import FramePipe, Mp4Recorder, decode_frames
from liveact_services.client.report import StreamReport
from liveact_services.client.speak import Sink, speak
from liveact_services.client.stream import AvatarClient, AvatarStream
from liveact_services.client.voice import LiveVoice, RecordedVoice, Voice, read_voice

__all__ = [
    "AvatarClient",
    "AvatarStream",
    "FramePipe",
    "LiveVoice",
    "MediaError",
    "Mp4Recorder",
    "RecordedVoice",
    "Sink",
    "StreamReport",
    "Voice",
    "decode_frames",
    "read_voice",
    "speak",
]
