"""How a turned head lies in the picture: 2.5-D, every point of the drawing has a depth and moves by its parallax.

Drawings are measured in hundredths of the picture's shorter side. Head coordinates have their origin in the middle of the head:
x to the right, y down, z towards the viewer.
"""

from __future__ import annotations

import math

from liveact_models.world.face import FaceState

CENTRE_X, CENTRE_Y = 50.0, 48.0
"""The middle of a head at rest, in hundredths of the picture."""
ZOOM, HEADROOM = 1.12, 12.0
"""How close the camera is, and how far below the middle, in hundredths, it comes closer to: the mouth stays in the picture."""
NECK_Y = 30.0
"""What the head rolls about, in head coordinates."""
MOST_YAW, MOST_PITCH, MOST_ROLL = 0.42, 0.30, 0.25
"""Radians at yaw, pitch or roll 1."""
SHIFT_X, SHIFT_Y = 5.0, 4.0
CURVATURE = 40.0
"""Radius of the face as far as foreshortening goes: features on the far side narrow."""


def clamp(value: float, low: float = -1.0, high: float = 1.0) -> float:
    return low if value < low else high if value > high else value


class Pose:
    """The head's turn, tilt and place in one frame."""

    def __init__(self, state: FaceState) -> None:
        self.turn = clamp(state.yaw) * MOST_YAW
        self.nod = clamp(state.pitch) * MOST_PITCH
        self.roll = clamp(state.roll) * MOST_ROLL
        self.shift = (clamp(state.shift_x) * SHIFT_X, clamp(state.shift_y) * SHIFT_Y)
        self._narrow_turn, self._sin_turn = 1.0 - math.cos(self.turn), math.sin(self.turn)
        self._narrow_nod, self._sin_nod = 1.0 - math.cos(self.nod), math.sin(self.nod)

    def at(self, x: float, y: float, z: float) -> tuple[float, float]:
        """Where a point of the head is seen, still in head coordinates (before roll and shift).

        Points near the viewer are foreshortened; those at the silhouette (z 0 and less) are not: a turning ball stays as
        wide.
        """
        near = z * 0.05 if 0.0 < z < 20.0 else (0.0 if z <= 0.0 else 1.0)
        return (
            x * (1.0 - near * self._narrow_turn) + z * self._sin_turn,
            y * (1.0 - near * self._narrow_nod) + z * self._sin_nod,
        )

    def squeeze(self, x: float) -> float:
        """How wide a feature at `x` looks: less than 1 where the face turns away."""
        angle = math.asin(clamp(x / CURVATURE))
        return math.cos(angle + self.turn) / math.cos(angle)

    def squash(self, y: float) -> float:
        """How tall a feature at `y` looks."""
        angle = math.asin(clamp(y / (1.5 * CURVATURE)))
        return math.cos(angle + self.nod) / math.cos(angle)

    def place(self, x: float, y: float, z: float) -> tuple[float, float]:
        """Where a point of the head is seen, in hundredths of the picture."""
        across, down = self.at(x, y, z)
        down -= NECK_Y
        cos, sin = math.cos(self.roll), math.sin(self.roll)
        return (
            CENTRE_X + self.shift[0] + across * cos - down * sin,
            CENTRE_Y + self.shift[1] + NECK_Y + across * sin + down * cos,
        )


def frame_of(width: int, height: int) -> tuple[float, float, float]:
    """Pixels a hundredth, and the pixel where hundredth (0, 0) lies: the square portrait in the middle of any picture."""
    scale = min(width, height) * ZOOM / 100.0
    return scale, width / 2.0 - 50.0 * scale, height / 2.0 - 50.0 * scale - HEADROOM * (ZOOM - 1.0) * scale
