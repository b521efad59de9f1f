"""liveact.v1 messages <-> the service's own values. Nothing is checked here; `requests.py` does that."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from google.protobuf.duration_pb2 import Duration

from liveact.v1 import avatar_pb2 as pb
from liveact_models.timeline import block_of_frame
from liveact_services.conductor.outputs import Event, Happening, Output, Sound, Video
from liveact_services.conductor.stages import Codec, EncodedFrame, Idle, Pacing, SessionSpec, StageTimes

MAX_MESSAGE_BYTES = 1024 * 1024 - 64 * 1024
"""Leaves room for what surrounds the payload in a message of at most 1 MiB."""

CODECS = {Codec.H264: pb.VIDEO_CODEC_H264, Codec.JPEG: pb.VIDEO_CODEC_JPEG, Codec.RGB: pb.VIDEO_CODEC_RGB}
PACINGS = {Pacing.REALTIME: pb.PACING_REALTIME, Pacing.FASTEST: pb.PACING_FASTEST}
IDLE_POLICIES = {Idle.ANIMATE: pb.IDLE_POLICY_ANIMATE, Idle.HOLD: pb.IDLE_POLICY_HOLD, Idle.LOOP: pb.IDLE_POLICY_LOOP}
EVENT_TYPES = {kind: pb.EventType.Value(f"EVENT_TYPE_{kind.name}") for kind in Happening}
ENCODINGS = {
    pb.AUDIO_ENCODING_UNSPECIFIED: "s16le",
    pb.AUDIO_ENCODING_PCM_S16LE: "s16le",
    pb.AUDIO_ENCODING_PCM_S24LE: "s24le",
    pb.AUDIO_ENCODING_PCM_S32LE: "s32le",
    pb.AUDIO_ENCODING_PCM_F32LE: "f32le",
}


def responses(output: Output, spec: SessionSpec) -> Iterator[pb.StreamAvatarResponse]:
    """The messages that carry one output: one, but for frames that pass the size limit together."""
    if isinstance(output, Video):
        yield from _video(output, spec)
    elif isinstance(output, Sound):
        data = np.clip(np.rint(output.samples * 32768.0), -32768, 32767).astype("<i2").tobytes()
        at = microseconds(output.at_s)
        span = pb.AudioSpan(pts_us=at, data=data, block=output.block, next_request=output.next_request)
        yield pb.StreamAvatarResponse(audio=span)
    else:
        yield pb.StreamAvatarResponse(event=_event(output))


def trimmed(message: pb.StreamAvatarResponse, next_frame: int) -> pb.StreamAvatarResponse | None:
    """The message as a client needs it that has every frame before `next_frame`; None when it has all of it."""
    if message.HasField("video"):
        wanted = [frame for frame in message.video.frames if frame.index >= next_frame]
        if not wanted:
            return None
        return pb.StreamAvatarResponse(
            video=pb.VideoChunk(frames=wanted, block=message.video.block, times=message.video.times)
        )
    if message.HasField("audio"):
        return message if message.audio.block >= block_of_frame(next_frame) else None
    return message


def microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)


def duration(seconds: float) -> Duration:
    value = Duration()
    value.FromMicroseconds(microseconds(seconds))
    return value


def _video(video: Video, spec: SessionSpec) -> Iterator[pb.StreamAvatarResponse]:
    group: list[pb.VideoFrame] = []
    size = 0
    times = video.part.times
    for frame, utterance in zip(video.part.frames, video.utterances, strict=True):
        if group and size + len(frame.data) > MAX_MESSAGE_BYTES:
            yield _chunk(group, video.part.block, times)
            group, size, times = [], 0, StageTimes()
        group.append(_frame(frame, utterance, spec))
        size += len(frame.data)
    yield _chunk(group, video.part.block, times)


def _chunk(frames: list[pb.VideoFrame], block: int, times: StageTimes) -> pb.StreamAvatarResponse:
    spent = pb.StageTimes(
        audio_us=microseconds(times.audio_s), denoise_us=microseconds(times.denoise_s),
        decode_us=microseconds(times.decode_s), encode_us=microseconds(times.encode_s),
    )  # fmt: skip
    return pb.StreamAvatarResponse(video=pb.VideoChunk(frames=frames, block=block, times=spent))


def _frame(frame: EncodedFrame, utterance: str, spec: SessionSpec) -> pb.VideoFrame:
    return pb.VideoFrame(
        index=frame.index, pts_us=microseconds(frame.index / spec.fps), key_frame=frame.key,
        codec=CODECS[spec.codec], data=frame.data, utterance_id=utterance,
    )  # fmt: skip


def _event(event: Event) -> pb.Event:
    message = pb.Event(
        type=EVENT_TYPES[event.kind], pts_us=microseconds(event.at_s), utterance_id=event.utterance,
        block=event.block, reason=event.reason, message=event.message,
    )  # fmt: skip
    if event.kind is Happening.INTERRUPTED:
        message.interrupted.CopyFrom(
            pb.Interrupted(
                played=duration(event.played_s), discarded=duration(event.discarded_s), next_request=event.next_request
            )
        )
    elif event.kind is Happening.MIGRATED:
        message.migrated.CopyFrom(pb.Migrated(stall=duration(event.stall_s)))
    return message
