"""A picture of samples: people down, states across, each with its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from liveact_models.world.draw import draw
from liveact_models.world.face import FaceState
from liveact_models.world.identity import Identity
from liveact_models.world.motion import EXPRESSIONS

SAMPLES: dict[str, FaceState] = {
    "rest": FaceState(),
    "open .5": FaceState(open=0.5),
    "open 1": FaceState(open=1.0),
    "narrow": FaceState(width=0.0),
    "wide": FaceState(width=1.0),
    "round": FaceState(round=1.0, open=0.35),
    "teeth": FaceState(teeth=1.0),
    "wide open teeth": FaceState(open=0.6, width=0.9, teeth=0.8),
    "half blink": FaceState(blink=0.5),
    "blink": FaceState(blink=1.0),
    "look left": FaceState(gaze_x=-1.0),
    "turn left": FaceState(yaw=-1.0),
    "turn right": FaceState(yaw=1.0),
    "up": FaceState(pitch=-1.0),
    "down": FaceState(pitch=1.0),
    "tilt": FaceState(roll=1.0),
    "wave": FaceState(hand=1.0, hand_swing=-0.6),
    **{name: FaceState(**values) for name, values in EXPRESSIONS.items() if values},
}
LABEL_HEIGHT = 18


def sheet(
    path: str | Path,
    seed: int = 0,
    people: int = 6,
    size: int = 128,
    states: dict[str, FaceState] | None = None,
) -> None:
    """Writes a PNG of `people` sampled identities in every state (`SAMPLES` unless given), `size` pixels a picture.

    Raises:
        MissingExtra: skia-python is not installed.
        OSError: the file cannot be written.
    """
    states = SAMPLES if states is None else states
    rng = np.random.default_rng(seed)
    rows = [Identity.sample(rng) for _ in range(people)]
    canvas = Image.new("RGB", (size * len(states), (size + LABEL_HEIGHT) * people + LABEL_HEIGHT), (250, 250, 250))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    for column, name in enumerate(states):
        pen.text((column * size + 4, 3), name, (30, 30, 40), font=font)
    for row, identity in enumerate(rows):
        top = LABEL_HEIGHT + row * (size + LABEL_HEIGHT)
        for column, state in enumerate(states.values()):
            canvas.paste(Image.fromarray(draw(identity, state, size, size)), (column * size, top))
        pen.text((4, top + size + 3), identity.describe(), (30, 30, 40), font=font)
    canvas.save(path)
