"""Encoders of finished frames: RGB [H, W, 3] uint8 in, bytes out, one frame at a time with no delay."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Protocol

import av
import numpy as np
from PIL import Image

from liveact_services.conductor.stages import Codec


class FrameEncoder(Protocol):
    """Encodes one session's frames in order."""

    def encode(self, rgb: np.ndarray, index: int, key: bool) -> bytes:
        """The bytes of this frame alone. `key`: decoding must be able to start here."""


class H264Encoder:
    """H.264 Annex B through libx264: no B-frames, no look-ahead, one access unit for every frame given."""

    def __init__(self, width: int, height: int, fps: int) -> None:
        context = av.CodecContext.create("libx264", "w")
        context.width, context.height = width, height
        context.pix_fmt = "yuv420p"
        context.framerate = Fraction(fps)
        context.time_base = Fraction(1, fps)
        # Key frames come where they are asked for, at block starts, and nowhere else; one thread keeps the bytes the same
        # from run to run. repeat-headers puts the parameter sets before every key frame, so a joining client can decode.
        context.options = {
            "preset": "veryfast", "tune": "zerolatency", "crf": "20", "threads": "1",
            "x264-params": "keyint=infinite:scenecut=0:repeat-headers=1:annexb=1:log-level=none",
        }  # fmt: skip
        # Opened with the session and not with its first frame, which somebody waits for.
        context.open()
        self._context = context

    def encode(self, rgb: np.ndarray, index: int, key: bool) -> bytes:
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        frame.pts = index
        frame.pict_type = av.video.frame.PictureType.I if key else av.video.frame.PictureType.NONE
        packets = self._context.encode(frame)
        if len(packets) != 1:
            raise RuntimeError(f"libx264 gave {len(packets)} packets for one frame: it must not hold frames back")
        return bytes(packets[0])


class JpegEncoder:
    """A JPEG file a frame; every frame is a key frame."""

    def __init__(self, quality: int = 90) -> None:
        self._quality = quality

    def encode(self, rgb: np.ndarray, index: int, key: bool) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(rgb).save(buffer, format="JPEG", quality=self._quality)
        return buffer.getvalue()


class RgbEncoder:
    """The pixels themselves, row by row."""

    def encode(self, rgb: np.ndarray, index: int, key: bool) -> bytes:
        return np.ascontiguousarray(rgb).tobytes()


def frame_encoder(codec: Codec, width: int, height: int, fps: int) -> FrameEncoder:
    """A new encoder of that codec for one session."""
    if codec is Codec.H264:
        return H264Encoder(width, height, fps)
    return JpegEncoder() if codec is Codec.JPEG else RgbEncoder()
