"""All marks of one session, on its frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from liveact_services.watermark.label import Label

if TYPE_CHECKING:
    from liveact_services.conductor.stages import SessionSpec


class Marks:
    """What a session's frames carry: nothing, unless its spec says so. A pure function of spec and frame."""

    def __init__(self, spec: SessionSpec) -> None:
        self._label = Label(spec.label, spec.width, spec.height, spec.corner) if spec.label else None

    def on(self, rgb: np.ndarray) -> np.ndarray:
        """Frames uint8 [n, H, W, 3] with their marks; the same array where there are none."""
        if self._label is None:
            return rgb
        marked = rgb.copy()
        for frame in marked:
            self._label.draw(frame)
        return marked
