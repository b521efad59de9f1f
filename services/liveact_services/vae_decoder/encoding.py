"""Encoders of finished frames: RGB [H, W, 3] uint8 in, bytes out, one frame at a time with no delay."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Literal, Protocol

import av
import numpy as np
from PIL import Image

from liveact_models.config import ConfigError
from liveact_services.conductor.stages import Codec


class FrameEncoder(Protocol):
    """Encodes one session's frames in order."""

    def encode(self, rgb: np.ndarray, index: int, key: bool) -> bytes:
        """The bytes of this frame alone. `key`: decoding must be able to start here."""


H264 = Literal["libx264", "nvenc"]
"""What encodes H.264: the processor, or the encoder of an NVIDIA GPU."""
# Key frames come where they are asked for, at block starts, and nowhere else, and the parameter sets stand before each, so that a
# joining client can decode.
_LIBRARIES: dict[str, tuple[str, dict[str, str]]] = {
    # One thread keeps the bytes the same from run to run.
    "libx264": ("libx264", {
        "preset": "veryfast", "tune": "zerolatency", "crf": "20", "threads": "1",
        "x264-params": "keyint=infinite:scenecut=0:repeat-headers=1:annexb=1:log-level=none",
    }),
    "nvenc": ("h264_nvenc", {
        "preset": "p4", "tune": "ull", "rc": "constqp", "qp": "23", "delay": "0", "zerolatency": "1", "forced-idr": "1",
        "bf": "0", "g": "1000000000", "no-scenecut": "1",
    }),
}  # fmt: skip
_SMALLEST_NVENC = 160
"""Shorter sides NVIDIA's encoder refuses; those pictures cost the processor little."""
_TRIAL_SIDE, _TRIAL_FRAMES = 256, 4


class H264Encoder:
    """H.264 Annex B: no B-frames, no look-ahead, one access unit for every frame given."""

    def __init__(self, width: int, height: int, fps: int, library: H264 = "libx264") -> None:
        small = min(width, height) < _SMALLEST_NVENC
        self._codec, options = _LIBRARIES["libx264" if small else library]
        context: av.VideoCodecContext = av.CodecContext.create(self._codec, "w")  # type: ignore[assignment]
        context.width, context.height = width, height
        context.pix_fmt = "yuv420p"
        context.framerate = Fraction(fps)
        context.time_base = Fraction(1, fps)
        context.options = dict(options)
        # Opened with the session and not with its first frame, which somebody waits for.
        context.open()
        self._context = context

    def encode(self, rgb: np.ndarray, index: int, key: bool) -> bytes:
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        frame.pts = index
        frame.pict_type = av.video.frame.PictureType.I if key else av.video.frame.PictureType.NONE
        packets = self._context.encode(frame)
        if len(packets) != 1:
            raise RuntimeError(f"{self._codec} gave {len(packets)} packets for one frame: it must not hold frames back")
        return bytes(packets[0])


def require_h264(library: H264) -> None:
    """Raises `ConfigError` where that does not encode here, which is tried: frame by frame, held back by none."""
    try:
        encoder = H264Encoder(_TRIAL_SIDE, _TRIAL_SIDE, 20, library)
        for index in range(_TRIAL_FRAMES):
            encoder.encode(np.full((_TRIAL_SIDE, _TRIAL_SIDE, 3), 40 * index, np.uint8), index, index == 0)
    except (av.FFmpegError, ValueError, RuntimeError) as error:
        raise ConfigError(f"h264 {library!r} does not encode here: {error}; accepted everywhere is 'libx264'") from None


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


def frame_encoder(codec: Codec, width: int, height: int, fps: int, h264: H264 = "libx264") -> FrameEncoder:
    """A new encoder of that codec for one session; `h264`: what encodes that."""
    if codec is Codec.H264:
        return H264Encoder(width, height, fps, h264)
    return JpegEncoder() if codec is Codec.JPEG else RgbEncoder()
