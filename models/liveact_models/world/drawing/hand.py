"""A waving hand that comes up beside the head. In hundredths of the picture."""

from __future__ import annotations

from functools import lru_cache

import skia

from liveact_models.world.drawing.paint import argb, glow, light, linear, outline, shade, stroke
from liveact_models.world.face import FaceState
from liveact_models.world.identity import Identity
from liveact_models.world.pose import clamp

REST, RAISED = (92.0, 127.0), (85.0, 79.0)
"""The wrist out of the picture and fully up."""
SWING = 22.0
"""Degrees to either side."""
FINGERS = ((-5.4, -11.0, -16.0, 9.0), (-1.9, -12.6, -5.0, 10.8), (1.7, -12.4, 5.0, 10.4), (5.0, -10.6, 15.0, 8.4))
"""Root x, root y, degrees, length."""


def draw_hand(canvas: skia.Canvas, identity: Identity, state: FaceState) -> None:
    up = clamp(state.hand, 0)
    if up == 0:
        return
    skin, sleeve = identity.skin.rgb, identity.garment_colour.rgb
    canvas.save()
    canvas.translate(REST[0] + (RAISED[0] - REST[0]) * up, REST[1] + (RAISED[1] - REST[1]) * up)
    canvas.rotate(SWING * clamp(state.hand_swing) * up + 4)
    canvas.scale(1.12, 1.12)
    canvas.drawPath(
        outline((-5.4, 8), [(5.4, 8)], [(9.5, 70)], [(-8.5, 70)]),
        linear((-8, 0), (9, 0), (argb(light(sleeve, 0.15)), argb(shade(sleeve, 0.3)))),
    )
    canvas.drawLine(-5.6, 9, 5.6, 9, stroke(shade(sleeve, 0.25), 2.6))
    edge = stroke(shade(skin, 0.5), 0.8, 0.7)
    hand = _open_hand()
    canvas.drawPath(hand, linear((-9, -20), (10, 6), (argb(glow(skin, 0.7)), argb(skin))))
    canvas.drawPath(hand, edge)
    palm = outline((-4.6, -2.0), [(-1.0, -1.0), (0.6, 4.0)], closed=False)
    canvas.drawPath(palm, stroke(shade(skin, 0.5), 0.7, 0.5))
    canvas.drawPath(outline((-3.0, -7.4), [(1.0, -5.6), (5.0, -7.6)], closed=False), stroke(shade(skin, 0.5), 0.7, 0.5))
    canvas.restore()


@lru_cache(maxsize=1)
def _open_hand() -> skia.Path:
    hand = skia.Path()
    hand.addPath(
        outline(
            (-4.2, 9), [(-6.6, 0), (-8.2, -6), (-7.2, -11.4)], [(0, -15), (7.0, -10.8)], [(8.0, -4), (6.4, 2), (4.2, 9)]
        )
    )
    for x, y, degrees, length in FINGERS:
        hand = skia.Op(hand, _finger(x, y, degrees, length, 1.9), skia.PathOp.kUnion_PathOp)
    hand = skia.Op(hand, _finger(-6.4, -2.0, -52, 8.6, 2.1), skia.PathOp.kUnion_PathOp)
    return hand


def _finger(x: float, y: float, degrees: float, length: float, half: float) -> skia.Path:
    finger = skia.Path()
    finger.addRoundRect(skia.Rect(-half, -length, half, 4.0), half, half)
    matrix = skia.Matrix()
    matrix.setRotate(degrees)
    matrix.postTranslate(x, y)
    finger.transform(matrix)
    return finger
