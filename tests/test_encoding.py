"""Frames into bytes: one packet a frame, decodable from every block's start, the same from run to run."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from PIL import Image

from liveact_models.config import ConfigError
from liveact_models.timeline import block_frames
from liveact_services.conductor.stages import Codec
from liveact_services.vae_decoder import encoding
from liveact_services.vae_decoder.encoding import H264Encoder, frame_encoder, require_h264

WIDTH, HEIGHT, FPS = 64, 48, 20
KEYS = {block_frames(block).start for block in range(4)}
COUNT = block_frames(4).start
IDR, SPS, PPS = 5, 7, 8


def pictures(count: int = COUNT) -> list[np.ndarray]:
    """A bar that moves over colours, and a cut in the middle of a block; uint8 [H, W, 3]."""
    made = []
    for index in range(count):
        rgb = np.full((HEIGHT, WIDTH, 3), (30, 60, 140), np.uint8)
        if 60 <= index < 70:
            rgb[:] = (220, 200, 40)
        rgb[:, index % 56 : index % 56 + 8] = (200, 40, 40)
        made.append(rgb)
    return made


def encoded(codec: Codec) -> list[bytes]:
    encoder = frame_encoder(codec, WIDTH, HEIGHT, FPS)
    return [encoder.encode(rgb, i, i in KEYS) for i, rgb in enumerate(pictures())]


def units(data: bytes) -> list[int]:
    """Types of the NAL units of an access unit in Annex B."""
    return [part[0] & 31 for part in data.replace(b"\x00\x00\x00\x01", b"\x00\x00\x01").split(b"\x00\x00\x01")[1:]]


def decoded(packets: list[bytes]) -> list[np.ndarray]:
    context = av.CodecContext.create("h264", "r")
    frames = [frame for data in packets for frame in context.decode(av.Packet(data))]
    frames += context.decode(None)
    return [frame.to_ndarray(format="rgb24") for frame in frames]


def test_h264_has_a_key_frame_with_its_parameter_sets_where_asked_and_nowhere_else() -> None:
    for index, data in enumerate(encoded(Codec.H264)):
        kinds = set(units(data))
        if index in KEYS:
            assert {SPS, PPS, IDR} <= kinds
        else:
            assert not kinds & {SPS, PPS, IDR}


@pytest.mark.parametrize("start", sorted(KEYS))
def test_h264_decodes_from_every_key_frame_into_the_pictures(start: int) -> None:
    frames = decoded(encoded(Codec.H264)[start:])
    assert len(frames) == COUNT - start
    for index, (seen, shown) in enumerate(zip(frames, pictures()[start:], strict=True)):
        assert np.abs(seen.astype(int) - shown).mean() < 8, start + index


def test_h264_needs_no_later_frame_to_show_one() -> None:
    context = av.CodecContext.create("h264", "r")
    context.flags |= av.codec.context.Flags.low_delay
    for data in encoded(Codec.H264)[:30]:
        assert len(context.decode(av.Packet(data))) == 1


@pytest.mark.parametrize("codec", list(Codec))
def test_the_same_pictures_give_the_same_bytes(codec: Codec) -> None:
    assert encoded(codec) == encoded(codec)


def test_two_encoders_do_not_disturb_each_other() -> None:
    one, other = (frame_encoder(Codec.H264, WIDTH, HEIGHT, FPS) for _ in range(2))
    alternating = []
    for index, rgb in enumerate(pictures(40)):
        alternating.append(one.encode(rgb, index, index in KEYS))
        other.encode(255 - rgb, index, index in KEYS)
    assert alternating == encoded(Codec.H264)[:40]


def test_jpeg_frames_are_files_of_their_own() -> None:
    for data, rgb in list(zip(encoded(Codec.JPEG), pictures(), strict=True))[::17]:
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.size) == ("JPEG", (WIDTH, HEIGHT))
            assert np.abs(np.asarray(image).astype(int) - rgb).mean() < 8


def test_rgb_is_the_pixels_whatever_their_strides() -> None:
    rgb = pictures(1)[0]
    turned = np.asfortranarray(rgb)
    data = frame_encoder(Codec.RGB, WIDTH, HEIGHT, FPS).encode(turned, 0, True)
    assert np.array_equal(np.frombuffer(data, np.uint8).reshape(HEIGHT, WIDTH, 3), rgb)


def test_a_library_that_does_not_encode_here_is_refused_in_words() -> None:
    require_h264("libx264")
    try:
        H264Encoder(256, 256, FPS, "nvenc")
    except av.FFmpegError:
        with pytest.raises(
            ConfigError, match=r"h264 'nvenc' does not encode here: .*; accepted everywhere is 'libx264'"
        ):
            require_h264("nvenc")
    else:
        require_h264("nvenc")


def test_a_library_that_holds_frames_back_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    late = "x264", ("libx264", {"preset": "medium", "x264-params": "log-level=none"})
    monkeypatch.setitem(encoding._LIBRARIES, *late)
    with pytest.raises(ConfigError, match="gave 0 packets for one frame"):
        require_h264("x264")  # type: ignore[arg-type]


def test_pictures_too_small_for_a_gpus_encoder_go_to_the_processor() -> None:
    small = H264Encoder(64, 256, FPS, "nvenc")
    assert len(small.encode(np.zeros((256, 64, 3), np.uint8), 0, True)) > 0
