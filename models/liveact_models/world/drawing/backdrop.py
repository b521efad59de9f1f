"""The place behind the person; it never moves."""

from __future__ import annotations

import skia

from liveact_models.world.drawing.paint import argb, fill, light, linear, mix, radial, shade, stroke
from liveact_models.world.identity import Identity

FAR = 300.0
"""Beyond every edge, so that pictures of any shape are filled."""


def draw_backdrop(canvas: skia.Canvas, identity: Identity) -> None:
    colour = identity.backdrop_colour.rgb
    lit, dark = light(colour, 0.35), shade(colour, 0.22)
    canvas.drawPaint(radial((32, 26), 105, (argb(lit), argb(colour), argb(dark)), (0.0, 0.45, 1.0)))
    _DETAILS[identity.backdrop](canvas, identity)


def _plain(canvas: skia.Canvas, identity: Identity) -> None:
    colour = identity.backdrop_colour.rgb
    canvas.drawPaint(linear((0, 0), (0, 100), (argb(light(colour, 0.10)), argb(shade(colour, 0.10)))))
    canvas.drawRect(skia.Rect(-FAR, 86, FAR, 87.4), fill(light(colour, 0.4), 0.8))


def _glow(canvas: skia.Canvas, identity: Identity) -> None:
    colour = light(identity.backdrop_colour.rgb, 0.75)
    canvas.drawPaint(radial((50, 44), 62, (argb(colour, 0.85), argb(colour, 0.0)), (0.35, 1.0)))


def _lights(canvas: skia.Canvas, identity: Identity) -> None:
    colour = identity.backdrop_colour.rgb
    canvas.drawPaint(fill(shade(colour, 0.45), 0.6))
    warm = (255, 226, 170)
    spots = (
        (9, 14, 7),
        (24, 6, 4.5),
        (5, 40, 5),
        (14, 66, 6.5),
        (88, 10, 6),
        (95, 30, 7.5),
        (76, 5, 4),
        (91, 56, 5),
        (97, 76, 6),
        (4, 84, 4),
    )
    for number, (x, y, radius) in enumerate(spots):
        tone = mix(warm, light(colour, 0.6), (number % 3) / 2)
        canvas.drawCircle(x, y, radius, fill(tone, 0.42))
        canvas.drawCircle(x, y, radius, stroke(light(tone, 0.5), 0.6, 0.5))


def _window(canvas: skia.Canvas, identity: Identity) -> None:
    colour = identity.backdrop_colour.rgb
    sky = linear((0, 6), (0, 58), (argb((156, 208, 244)), argb((236, 246, 250))))
    canvas.drawRect(skia.Rect(62, 4, 120, 60), fill(light(colour, 0.75)))
    canvas.drawRect(skia.Rect(65, 7, 120, 57), sky)
    canvas.drawRect(skia.Rect(88, 7, 90, 57), fill(light(colour, 0.75)))
    canvas.drawRect(skia.Rect(65, 30, 120, 32), fill(light(colour, 0.75)))
    canvas.drawCircle(97, 62, 12, fill((122, 172, 120), 0.9))


def _panelled(canvas: skia.Canvas, identity: Identity) -> None:
    colour = identity.backdrop_colour.rgb
    for x in (-34, 2, 70, 106):
        frame = skia.Rect(x, 6, x + 28, 76)
        canvas.drawRect(frame, stroke(shade(colour, 0.35), 1.2, 0.5))
        canvas.drawRect(frame.makeOffset(0.9, 0.9), stroke(light(colour, 0.6), 0.8, 0.6))


def _stripes(canvas: skia.Canvas, identity: Identity) -> None:
    paint = fill(light(identity.backdrop_colour.rgb, 0.5), 0.4)
    for x in range(-96, 200, 16):
        canvas.drawRect(skia.Rect(x, -FAR, x + 7, FAR), paint)


_DETAILS = {
    "wall": _plain,
    "glow": _glow,
    "lights": _lights,
    "window": _window,
    "panelled wall": _panelled,
    "stripes": _stripes,
}
