"""Frames back to pixels, whatever they were encoded as."""

from __future__ import annotations

import io
from collections.abc import Iterable

import av
import numpy as np
from PIL import Image

from liveact.v1 import avatar_pb2 as pb2


class MediaError(ValueError):
    """A frame that is not what its codec says; the message names the frame."""


class FrameDecoder:
    """Decodes one session's frames in order. H.264 needs to begin at a key frame."""

    def __init__(self, codec: pb2.VideoCodec, width: int, height: int) -> None:
        self._codec, self._shape = codec, (height, width, 3)
        self._h264: av.VideoCodecContext | None = None
        if codec == pb2.VIDEO_CODEC_H264:
            self._h264 = av.VideoCodecContext.create("h264", "r")
            # Frame threads would hold frames back; the stream has no B-frames, so one comes out for each that goes in.
            self._h264.thread_type = "SLICE"

    def decode(self, frame: pb2.VideoFrame) -> np.ndarray:
        """uint8 [H, W, 3], RGB. Raises `MediaError` when the frame is not what its codec says."""
        try:
            pixels = self._decode(frame.data)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise MediaError(f"frame {frame.index}: does not decode ({error})") from error
        if pixels.shape != self._shape:
            raise MediaError(f"frame {frame.index}: decodes to {pixels.shape}, the session has {self._shape}")
        return pixels

    def _decode(self, data: bytes) -> np.ndarray:
        if self._h264 is not None:
            [picture] = self._h264.decode(av.Packet(data))
            return picture.to_ndarray(format="rgb24")
        if self._codec == pb2.VIDEO_CODEC_JPEG:
            return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        return np.frombuffer(data, np.uint8).reshape(self._shape)


def decode_frames(frames: Iterable[pb2.VideoFrame], session: pb2.Session) -> np.ndarray:
    """uint8 [n, H, W, 3], RGB. Raises `MediaError`."""
    decoder = FrameDecoder(session.codec, session.width, session.height)
    pixels = [decoder.decode(frame) for frame in frames]
    return np.stack(pixels) if pixels else np.zeros((0, session.height, session.width, 3), np.uint8)
