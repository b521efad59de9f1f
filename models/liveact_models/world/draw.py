"""From a person and a face state to pixels."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from liveact_models.world.face import STATE, FaceState
from liveact_models.world.identity import Identity
from liveact_models.world.pose import Pose, frame_of

Point = tuple[float, float, float]
Box = tuple[float, float, float, float]


def draw(identity: Identity, state: FaceState, width: int, height: int) -> NDArray[np.uint8]:
    """The picture of a person in a state, uint8 [height, width, 3]; the same arguments give the same bytes.

    Raises:
        ValueError: a side below one pixel, or a value of the state that is not a number.
        MissingExtra: skia-python is not installed.
    """
    from liveact_models.world.drawing.portrait import paint_portrait

    if width < 1 or height < 1:
        raise ValueError(f"a picture of {width} x {height} pixels: both sides must be at least 1")
    bad = [name for name, value in zip(STATE, state.row(), strict=True) if not math.isfinite(value)]
    if bad:
        raise ValueError(f"face state is not a number in {', '.join(bad)}")
    return paint_portrait(identity, state, width, height)


def mouth_box(identity: Identity, state: FaceState, width: int = 1, height: int = 1) -> Box:
    """Where the mouth is: (x0, y0, x1, y1) in fractions of the picture (square unless its sides are given).

    The box follows the head but neither grows nor shrinks with the mouth, so that crops of it can be compared.
    """
    return _box(state, (0, 25.5, 25), 18.0, 14.0, width, height)


def face_box(identity: Identity, state: FaceState, width: int = 1, height: int = 1) -> Box:
    """Where the face is, forehead to chin and ear to ear, as `mouth_box`."""
    return _box(state, (0, 1.0, 4), 31.0 * identity.face_width, 38.0, width, height)


def _box(state: FaceState, centre: Point, half_width: float, half_height: float, width: int, height: int) -> Box:
    scale, left, top = frame_of(width, height)
    x, y = Pose(state).place(*centre)
    return (
        (left + (x - half_width) * scale) / width,
        (top + (y - half_height) * scale) / height,
        (left + (x + half_width) * scale) / width,
        (top + (y + half_height) * scale) / height,
    )
