"""Portraits: any still picture becomes the same kind of array, and what is none gets a stable reason."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from liveact_models.portrait import MAX_BYTES, PortraitError, prepare_portrait


def encode(image: Image.Image, format: str = "PNG", **options) -> bytes:
    data = io.BytesIO()
    image.save(data, format, **options)
    return data.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)[None, :]
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels)


def png_header(width: int, height: int) -> bytes:
    """A PNG that only claims its size."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    idat = b"IDAT" + zlib.compress(b"\0" * 64)
    parts = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, idat, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def reason(data: bytes) -> tuple[str, str]:
    with pytest.raises(PortraitError) as caught:
        prepare_portrait(data, 64, 64)
    return caught.value.reason, str(caught.value)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_every_accepted_format_gives_the_same_picture(format):
    portrait = prepare_portrait(encode(gradient(128, 128), format, quality=95), 64, 48)
    assert portrait.image.shape == (3, 48, 64)
    assert portrait.image.dtype == np.float32
    assert -1 <= portrait.image.min() < -0.9
    assert 0.9 < portrait.image.max() <= 1
    assert portrait.format.upper() == format
    expected = prepare_portrait(encode(gradient(128, 128)), 64, 48).image
    assert np.abs(portrait.image - expected).mean() < 0.02


def test_the_crop_keeps_the_centre_and_the_proportions():
    wide = prepare_portrait(encode(gradient(400, 100)), 64, 64)
    assert (wide.source_width, wide.source_height) == (400, 100)
    red, green = wide.image[0].mean(axis=0), wide.image[1].mean(axis=1)
    assert red[0] == pytest.approx(-0.25, abs=0.03)
    assert red[-1] == pytest.approx(0.25, abs=0.03)
    assert green[0] < -0.95 < 0.95 < green[-1]


def test_exif_orientation_is_honoured():
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: to be turned clockwise
    turned = prepare_portrait(encode(gradient(120, 80), "JPEG", exif=exif, quality=95), 32, 48)
    assert (turned.source_width, turned.source_height) == (80, 120)
    red, green = turned.image[0].mean(axis=1), turned.image[1].mean(axis=0)
    assert red[0] < -0.9 < 0.9 < red[-1]
    assert green[0] > 0.9 > -0.9 > green[-1]


def test_transparency_lies_on_neutral_grey():
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert np.abs(prepare_portrait(encode(clear), 32, 32).image).max() < 0.01
    palette = Image.new("P", (32, 32), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    assert np.abs(prepare_portrait(encode(palette, transparency=0), 32, 32).image).max() < 0.01


def test_sixteen_bits_of_grey_are_scaled_and_not_clipped():
    levels = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    image = prepare_portrait(encode(Image.fromarray(levels)), 64, 64).image
    assert np.allclose(image[0, 32], np.linspace(-1, 1, 64), atol=0.02)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "1", "RGBA"])
def test_every_pixel_mode_is_accepted(mode):
    format = "JPEG" if mode == "CMYK" else "PNG"
    portrait = prepare_portrait(encode(Image.new("RGB", (64, 64), "white").convert(mode), format), 32, 32)
    assert portrait.image.min() > 0.97


def test_no_bytes():
    assert reason(b"")[0] == "IMAGE_EMPTY"


def test_too_many_bytes():
    found, message = reason(b"\x89PNG\r\n\x1a\n" + bytes(MAX_BYTES))
    assert found == "IMAGE_TOO_LARGE"
    assert str(MAX_BYTES) in message


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (encode(gradient(32, 32), "GIF"), "GIF"),
        (encode(gradient(32, 32), "BMP"), "BMP"),
        (encode(gradient(32, 32), "TIFF"), "TIFF"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "no known image format"),
        (b"hello", "no known image format"),
    ],
)
def test_other_formats_are_named(data, named):
    found, message = reason(data)
    assert found == "IMAGE_FORMAT_UNSUPPORTED"
    assert named in message
    assert "PNG, JPEG and WebP" in message


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_animation_is_refused(format):
    frames = [gradient(32, 32), Image.new("RGB", (32, 32))]
    assert reason(encode(frames[0], format, save_all=True, append_images=frames[1:]))[0] == "IMAGE_ANIMATED"


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("kept", [0.6, 0.02])
def test_a_file_cut_off_is_refused(format, kept):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8))
    data = encode(noise, format)
    assert reason(data[: max(int(len(data) * kept), 13)])[0] == "IMAGE_TRUNCATED"


@pytest.mark.parametrize("size", [(20000, 20), (20, 20000), (50000, 50000), (8000, 8000)])
def test_huge_sizes_are_refused_from_the_header(size):
    found, message = reason(png_header(*size))
    assert found == "IMAGE_TOO_MANY_PIXELS"
    assert f"{size[0]}x{size[1]}" in message


@pytest.mark.parametrize("size", [(1, 1), (15, 200)])
def test_small_sizes_are_refused(size):
    assert reason(encode(Image.new("RGB", size)))[0] == "IMAGE_TOO_SMALL"


def test_nothing_is_printed_and_torch_stays_out():
    """The gateway checks portraits in a process that must stay light."""
    script = (
        "import sys; from liveact_models import portrait\n"
        f"try: portrait.prepare_portrait({png_header(50000, 50000)!r}, 64, 64)\n"
        "except portrait.PortraitError: pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "always", "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
