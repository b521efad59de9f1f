"""The visible mark: a few words in a corner, drawn once and laid over every frame."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from liveact_services.watermark.corner import Corner

SHORT = "AI"
"""In place of words that do not fit."""
HEIGHT = 0.05
"""Of the letters' size, as a share of the shorter side."""
SMALLEST = 9
"""Letters below are not legible."""
WIDEST = 0.92
"""Share of the width that the words may take."""
SHADE = 0.55
"""How much of the picture goes behind the words."""


class Label:
    """The words at one picture size, as what is kept of the pixels below and what is added."""

    def __init__(self, text: str, width: int, height: int, corner: Corner = "bottom-right") -> None:
        words, font = _fitting(text, width, height)
        left, top, right, bottom = font.getbbox(words)
        margin = max(2, round(font.size / 3))
        size = (min(width, round(right - left) + 2 * margin), min(height, round(bottom - top) + 2 * margin))
        letters = Image.new("L", size)
        ImageDraw.Draw(letters).text((margin - left, margin - top), words, fill=255, font=font)
        drawn = np.asarray(letters, np.float32)[..., None] / 255
        self.text = words
        """What is shown."""
        # Of a pixel stays what neither shade nor letter covers; letters are white. In 1/256.
        self._kept = np.rint(256 * (1 - SHADE) * (1 - drawn)).astype(np.uint16)
        self._added = np.floor(255 * drawn).astype(np.uint16)
        y = 0 if corner.startswith("top") else height - size[1]
        x = 0 if corner.endswith("left") else width - size[0]
        self.rows, self.columns = slice(y, y + size[1]), slice(x, x + size[0])

    def draw(self, rgb: np.ndarray) -> None:
        """Lay it over a frame, uint8 [H, W, 3], in place. Integers only: the same bytes wherever it is done."""
        below = rgb[self.rows, self.columns]
        below[...] = ((below * self._kept) >> 8) + self._added


def _fitting(text: str, width: int, height: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """The words and the size of letters at which they fit; `SHORT` where they would not be legible."""
    wanted = max(SMALLEST + 1, round(HEIGHT * min(width, height)))
    for words in (text, SHORT):
        for size in range(wanted, SMALLEST - 1, -1):
            font = _letters(size)
            left, _, right, _ = font.getbbox(words)
            if right - left + 2 * max(2, round(size / 3)) <= WIDEST * width:
                return words, font
    return SHORT, _letters(SMALLEST)


def _letters(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow is built without FreeType"
    return font
