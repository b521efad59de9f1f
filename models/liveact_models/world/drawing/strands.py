"""What all hair is made of: its gloss, its strands and curls, and its shadow on the forehead."""

from __future__ import annotations

import skia

from liveact_models.world.drawing.paint import RGB, Solid, argb, fill, light, linear, modelled, oval, shade, stroke
from liveact_models.world.identity import Identity
from liveact_models.world.pose import Pose

Spots = tuple[tuple[float, float, float, float], ...]
"""Curls: x, y and z of the middle, and radius."""
WIDE, TOP = 32.5, -43.5
"""Half the width of the hair and its highest point, on a head of average width."""


def gloss(colour: RGB, top: float, bottom: float) -> skia.Paint:
    """Hair lit from above with a band of shine."""
    stops = (argb(light(colour, 0.06)), argb(light(colour, 0.24)), argb(colour), argb(shade(colour, 0.30)))
    return linear((-6, top), (6, bottom), stops, (0.0, 0.22, 0.5, 1.0))


def strands(canvas: skia.Canvas, pose: Pose, colour: RGB, *curves: tuple[Solid, ...]) -> None:
    """Light and dark locks along the flow of the hair, in turn."""
    for number, (start, *points) in enumerate(curves):
        path = modelled(pose, start, points, closed=False)
        tone = light(colour, 0.5) if number % 2 == 0 else shade(colour, 0.55)
        canvas.drawPath(path, stroke(tone, 1.1 if number % 2 == 0 else 0.9, 0.42))


def half_width(identity: Identity) -> float:
    return WIDE * identity.face_width


def shadow(canvas: skia.Canvas, identity: Identity, path: skia.Path) -> None:
    """The hair's shadow on the forehead, just below it."""
    canvas.save()
    canvas.translate(0, 1.6)
    canvas.scale(0.96, 1)
    canvas.drawPath(path, fill(shade(identity.skin.rgb, 0.7), 0.22))
    canvas.restore()


def curls(pose: Pose, spots: Spots) -> skia.Path:
    """All of them as one outline."""
    path = skia.Path()
    for x, y, z, radius in spots:
        across, down = pose.at(x, y, z)
        path.addCircle(across, down, radius)
    return path


def ringlets(canvas: skia.Canvas, pose: Pose, colour: RGB, spots: Spots) -> None:
    """A light on the upper left of every curl, a shadow on the lower right of every other."""
    bright, dark = skia.Path(), skia.Path()
    for number, (x, y, z, radius) in enumerate(spots):
        across, down = pose.at(x, y, z)
        bright.addArc(oval(across, down, 0.62 * radius, 0.62 * radius), 190, 100)
        if number % 2 == 0:
            dark.addArc(oval(across, down, 0.7 * radius, 0.7 * radius), 10, 110)
    canvas.drawPath(bright, stroke(light(colour, 0.5), 1.0, 0.45))
    canvas.drawPath(dark, stroke(shade(colour, 0.6), 0.9, 0.45))
