"""A portrait as the model takes it: scaled and centre-cropped, upright, opaque. Needs no torch."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

MAX_BYTES = 16 * 1024 * 1024
MAX_PIXELS = 40_000_000
MAX_SIDE = 16384
MIN_SIDE = 16
ACCEPTED = "PNG, JPEG and WebP"
BACKGROUND = (128, 128, 128)
"""What transparency is laid on: neutral grey, the middle of the model's range."""

# Opened by class and not through Image.open, whose own guard against huge images warns on stderr and passes many.
_FORMATS: tuple[tuple[str, bytes, int, type[ImageFile.ImageFile]], ...] = (
    ("PNG", b"\x89PNG\r\n\x1a\n", 0, PngImagePlugin.PngImageFile),
    ("JPEG", b"\xff\xd8\xff", 0, JpegImagePlugin.JpegImageFile),
    ("WebP", b"WEBP", 8, WebPImagePlugin.WebPImageFile),
)
_KNOWN_OTHERS = (
    (b"GIF8", 0, "GIF"),
    (b"BM", 0, "BMP"),
    (b"II*\x00", 0, "TIFF"),
    (b"MM\x00*", 0, "TIFF"),
    (b"ftypheic", 4, "HEIC"),
    (b"ftypavif", 4, "AVIF"),
    (b"%PDF", 0, "PDF"),
    (b"<svg", 0, "SVG"),
)
_BROKEN = (OSError, SyntaxError, ValueError, EOFError)


class PortraitError(ValueError):
    """An image that is no portrait. `reason` is stable, the message says what was found and what is accepted.

    Reasons: IMAGE_EMPTY, IMAGE_TOO_LARGE (bytes), IMAGE_FORMAT_UNSUPPORTED, IMAGE_ANIMATED, IMAGE_TRUNCATED,
    IMAGE_TOO_MANY_PIXELS, IMAGE_TOO_SMALL.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Portrait:
    """A prepared portrait, and what it was made from."""

    image: NDArray[np.float32]
    """[3, height, width] in [-1, 1]."""
    format: str
    source_width: int
    source_height: int
    """Upright, in pixels."""


def prepare_portrait(data: bytes, width: int, height: int) -> Portrait:
    """The image in `data` scaled to cover width x height pixels and cut around its centre.

    EXIF orientation is honoured, transparency laid on neutral grey; palette, grey, 16-bit and CMYK images are accepted.
    Raises `PortraitError`; sizes are checked in the header, before a pixel is decoded.
    """
    name, image = _open(data)
    _check_header(image)
    try:
        image.load()
        upright = _to_rgb(ImageOps.exif_transpose(image))
    except _BROKEN as error:
        raise PortraitError("IMAGE_TRUNCATED", f"image: the {name} file is cut off or damaged ({error})") from None
    scale = max(width / upright.width, height / upright.height)
    left = (upright.width - width / scale) / 2
    top = (upright.height - height / scale) / 2
    box = (left, top, upright.width - left, upright.height - top)
    pixels = np.asarray(upright.resize((width, height), Image.Resampling.LANCZOS, box=box), np.float32)
    normalized = np.ascontiguousarray(pixels.transpose(2, 0, 1) / np.float32(127.5) - np.float32(1))
    return Portrait(normalized, name, upright.width, upright.height)


def _open(data: bytes) -> tuple[str, ImageFile.ImageFile]:
    if not data:
        raise PortraitError("IMAGE_EMPTY", f"image: no bytes; accepted are {ACCEPTED}")
    if len(data) > MAX_BYTES:
        raise PortraitError("IMAGE_TOO_LARGE", f"image: {len(data)} bytes; accepted are at most {MAX_BYTES}")
    for name, magic, offset, plugin in _FORMATS:
        if data[offset : offset + len(magic)] == magic:
            try:
                return name, plugin(io.BytesIO(data))
            except _BROKEN as error:
                raise PortraitError("IMAGE_TRUNCATED", f"image: the {name} header is cut off ({error})") from None
    found = next((n for magic, at, n in _KNOWN_OTHERS if data[at : at + len(magic)] == magic), "no known image format")
    raise PortraitError("IMAGE_FORMAT_UNSUPPORTED", f"image: found {found}; accepted are {ACCEPTED}")


def _check_header(image: ImageFile.ImageFile) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise PortraitError(
            "IMAGE_TOO_MANY_PIXELS",
            f"image: {width}x{height}; accepted are at most {MAX_PIXELS} pixels and sides of at most {MAX_SIDE}",
        )
    if min(width, height) < MIN_SIDE:
        raise PortraitError("IMAGE_TOO_SMALL", f"image: {width}x{height}; accepted are sides of at least {MIN_SIDE}")
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise PortraitError("IMAGE_ANIMATED", f"image: {frames} frames; accepted are still images")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip
        image = Image.fromarray((np.asarray(image).astype(np.float32) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (*BACKGROUND, 255)), rgba).convert("RGB")
    return image.convert("RGB")
