"""All marks of one session, on its frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np

from liveact_services.watermark.corner import Corner
from liveact_services.watermark.label import Label
from liveact_services.watermark.mark import Mark

if TYPE_CHECKING:
    from liveact_services.conductor.stages import SessionSpec


class Marks:
    """What frames of one size carry. A pure function of frame, label and mark: a frame made again is the same."""

    def __init__(
        self, width: int, height: int, label: str = "", corner: Corner = "bottom-right", mark: str = ""
    ) -> None:
        """`label`: words, and `mark`: an id whose beginning is hidden; empty: none."""
        self._label = Label(label, width, height, corner) if label else None
        self._mark = Mark(mark, width, height) if mark else None

    @classmethod
    def of(cls, spec: SessionSpec) -> Self:
        """Those that were agreed for a session."""
        return cls(spec.width, spec.height, spec.label, spec.corner, spec.mark)

    def on(self, rgb: np.ndarray) -> np.ndarray:
        """Frames uint8 [n, H, W, 3] with their marks; the same array where there are none."""
        if self._label is None and self._mark is None:
            return rgb
        marked = rgb.copy()
        for frame in marked:
            if self._label is not None:
                self._label.draw(frame)
            if self._mark is not None:
                self._mark.put(frame)
        return marked
