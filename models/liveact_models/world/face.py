"""What one frame of a portrait shows, as plain numbers: the ground truth of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from operator import attrgetter


@dataclass(frozen=True, slots=True)
class FaceState:
    """Pose, look, expression, mouth and hand of one frame; the defaults are a resting face.

    Directions are those of the picture: + is right, down or clockwise. Values beyond their range are drawn as its end.
    """

    yaw: float = 0.0
    """Head turned to the picture's left (-1) or right (1), about 24 degrees."""
    pitch: float = 0.0
    """Head raised (-1) or lowered (1), about 17 degrees."""
    roll: float = 0.0
    """Head tilted to the picture's left (-1) or right (1), 14 degrees."""
    shift_x: float = 0.0
    """Head moved sideways over still shoulders, -1..1, 5 % of the picture."""
    shift_y: float = 0.0
    """Head moved up (-1) or down (1), 4 % of the picture."""
    blink: float = 0.0
    """Lids open (0) to shut (1)."""
    gaze_x: float = 0.0
    """Irises to the left (-1) or right (1)."""
    gaze_y: float = 0.0
    """Irises up (-1) or down (1)."""
    brow_raise: float = 0.0
    """Brows at rest (0) to high over wide eyes (1)."""
    brow_frown: float = 0.0
    """Brows at rest (0) to drawn together and down (1)."""
    smile: float = 0.0
    """Corners of the mouth and inner brows: sad (-1) to happy (1)."""
    cheek: float = 0.0
    """Cheeks at rest (0) to raised and rosy, narrowing the eyes (1)."""
    open: float = 0.0
    """Lips and jaw shut (0) to wide open (1)."""
    width: float = 0.5
    """Corners of the mouth narrow (0), at rest (0.5), stretched (1)."""
    round: float = 0.0
    """Lips flat (0) to protruded and rounded (1)."""
    teeth: float = 0.0
    """Upper teeth hidden (0) to bared, the tongue behind them (1)."""
    hand: float = 0.0
    """A hand beside the head: out of the picture (0) to fully up (1)."""
    hand_swing: float = 0.0
    """The raised hand swung left (-1) or right (1)."""

    @classmethod
    def from_row(cls, row: Sequence[float]) -> FaceState:
        """The state whose values stand in the order of `STATE`.

        Raises:
            ValueError: the row has not one value for every name.
        """
        if len(row) != len(STATE):
            raise ValueError(f"{len(row)} values for a face state of {len(STATE)}: {', '.join(STATE)}")
        return cls(*map(float, row))

    def row(self) -> tuple[float, ...]:
        """Its values in the order of `STATE`."""
        return _values(self)


STATE: tuple[str, ...] = tuple(item.name for item in fields(FaceState))
"""Names of a face state's values, in order."""
_values = attrgetter(*STATE)
