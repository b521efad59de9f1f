"""Contact sheets: frames side by side, so that people see what figures say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

GAP = 2
LABEL = 14
"""Height of a line of text, in pixels."""
PAPER, INK = (250, 250, 250), (40, 40, 40)

Shots = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
"""Pictures [H, W, 3] of one size."""


def write_sheet(rows: Sequence[tuple[str, Shots]], out: Path, title: str = "") -> Path:
    """A PNG with a labelled line of pictures for every row; returns its path. Raises `ValueError` for no picture at all."""
    if not any(len(shots) for _, shots in rows):
        raise ValueError(f"{out}: there is no picture to lay out")
    height, width = next(shots[0].shape[:2] for _, shots in rows if len(shots))
    columns = max(len(shots) for _, shots in rows)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, LABEL + len(rows) * (height + LABEL) + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, 1), title, fill=INK)
    for line, (label, shots) in enumerate(rows):
        top = LABEL + line * (height + LABEL)
        pen.text((GAP, top + 1), label, fill=INK)
        for column, shot in enumerate(shots):
            sheet.paste(Image.fromarray(shot), (GAP + column * (width + GAP), top + LABEL))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    return out
