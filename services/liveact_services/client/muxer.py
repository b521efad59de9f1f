"""A session's picture and sound into one container: H.264 as it came, everything else encoded, on the media clock."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np

from liveact.v1 import avatar_pb2 as pb2
from liveact_services.client.decoder import FrameDecoder, MediaError

VIDEO_CLOCK = 90_000
"""Ticks a second of the video track; every frame rate from 10 to 30 that divides it has exact frame times."""
MICROSECONDS = 1_000_000


class Muxer:
    """One open container with a video and an AAC track; PyAV's errors pass through.

    `target` is a path or a writable binary stream, `container` a format by FFmpeg's name ("mp4", "mpegts"). Time starts
    at the first frame or sound it is given, so a recording that begins in the middle of a session starts at zero.
    """

    def __init__(
        self, target: str | BinaryIO, container: str, session: pb2.Session, options: dict[str, str] | None = None
    ) -> None:
        self._output = av.open(target, "w", format=container, options=options or {})
        self._session = session
        self._origin_us: int | None = None
        self._video: VideoTrack | None = None
        self._sound = SoundTrack(self._output, session.audio_format.sample_rate_hz)
        # Sound runs ahead of its frames, and a container takes no track any more once something is written.
        self._early: list[tuple[bytes, int]] = []

    def video(self, frame: pb2.VideoFrame) -> None:
        """One frame; an H.264 recording starts at the first key frame."""
        if self._video is None:
            if not frame.key_frame:
                return
            self._video = open_video_track(self._output, self._session, frame)
            self._write_early()
        self._video.write(frame, self._since_origin(frame.pts_us))

    def audio(self, span: pb2.AudioSpan) -> None:
        """Sound, in order."""
        pts_us = self._since_origin(span.pts_us)
        if self._video is None:
            self._early.append((span.data, pts_us))
        else:
            self._sound.write(span.data, pts_us)

    def close(self) -> None:
        """Write what is left and the container's end."""
        try:
            self._write_early()
            if self._video is not None:
                self._video.close()
            self._sound.close()
        finally:
            self._output.close()

    def _write_early(self) -> None:
        early, self._early = self._early, []
        for pcm, pts_us in early:
            self._sound.write(pcm, pts_us)

    def _since_origin(self, pts_us: int) -> int:
        if self._origin_us is None:
            self._origin_us = pts_us
        return pts_us - self._origin_us


class VideoTrack:
    """A video track that takes frames of one codec."""

    def write(self, frame: pb2.VideoFrame, pts_us: int) -> None:
        """The next frame, at this time since the recording's start."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing more comes."""


def open_video_track(output: av.container.OutputContainer, session: pb2.Session, first: pb2.VideoFrame) -> VideoTrack:
    """The track for this session's codec. `first` is its first frame, a key frame."""
    if session.codec == pb2.VIDEO_CODEC_H264:
        return CopiedTrack(output, session, first)
    return EncodedTrack(output, session)


class CopiedTrack(VideoTrack):
    """H.264 access units, copied bit for bit."""

    def __init__(self, output: av.container.OutputContainer, session: pb2.Session, first: pb2.VideoFrame) -> None:
        self._output = output
        self._duration = round(VIDEO_CLOCK / session.fps)
        try:
            # Parameter sets stand in front of every key frame; the demuxer reads them for the container's header.
            with av.open(io.BytesIO(first.data), format="h264") as source:
                self._stream = output.add_stream_from_template(source.streams.video[0])
        except av.FFmpegError as error:
            raise MediaError(f"frame {first.index}: no H.264 key frame ({error.strerror})") from error
        self._stream.time_base = Fraction(1, VIDEO_CLOCK)

    def write(self, frame: pb2.VideoFrame, pts_us: int) -> None:
        packet = av.Packet(frame.data)
        packet.stream = self._stream
        packet.time_base = Fraction(1, VIDEO_CLOCK)
        packet.pts = packet.dts = round(pts_us * VIDEO_CLOCK / MICROSECONDS)
        packet.duration = self._duration
        packet.is_keyframe = frame.key_frame
        self._output.mux(packet)


class EncodedTrack(VideoTrack):
    """JPEG or RGB frames, decoded and encoded with libx264."""

    def __init__(self, output: av.container.OutputContainer, session: pb2.Session) -> None:
        self._output = output
        self._decoder = FrameDecoder(session.codec, session.width, session.height)
        self._duration = round(VIDEO_CLOCK / session.fps)
        self._stream = output.add_stream("libx264", rate=session.fps, options={"preset": "veryfast", "crf": "18"})
        self._stream.width, self._stream.height = session.width, session.height
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.max_b_frames = 0
        self._stream.codec_context.time_base = Fraction(1, VIDEO_CLOCK)

    def write(self, frame: pb2.VideoFrame, pts_us: int) -> None:
        picture = av.VideoFrame.from_ndarray(self._decoder.decode(frame), format="rgb24")
        picture.time_base = Fraction(1, VIDEO_CLOCK)
        picture.pts = round(pts_us * VIDEO_CLOCK / MICROSECONDS)
        self._mux(self._stream.encode(picture))

    def close(self) -> None:
        self._mux(self._stream.encode(None))

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            packet.duration = self._duration
            self._output.mux(packet)


class SoundTrack:
    """Mono PCM16 at `rate` Hz into AAC. Holes become silence, repeats are dropped: sound stays on the media clock."""

    def __init__(self, output: av.container.OutputContainer, rate: int) -> None:
        self._output, self._rate = output, rate
        self._stream = output.add_stream("aac", rate=rate, layout="mono")
        self._written = 0

    def write(self, pcm: bytes, pts_us: int) -> None:
        samples = np.frombuffer(pcm, "<i2")
        start = round(pts_us * self._rate / MICROSECONDS)
        if start > self._written:
            samples = np.concatenate([np.zeros(start - self._written, np.int16), samples])
        elif start < self._written:
            samples = samples[self._written - start :]
        if not len(samples):
            return
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.time_base = self._rate, Fraction(1, self._rate)
        frame.pts = self._written
        self._written += len(samples)
        self._output.mux(self._stream.encode(frame))

    def close(self) -> None:
        if self._written:
            self._output.mux(self._stream.encode(None))
