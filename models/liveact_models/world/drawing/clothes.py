"""Shoulders and what is worn over them; they never move. In hundredths of the picture."""

from __future__ import annotations

import skia

from liveact_models.world.drawing.paint import argb, fill, light, linear, outline, shade, stroke
from liveact_models.world.identity import Identity

BELOW = 320.0


def _torso(identity: Identity, neck: float, neck_y: float = 89.0) -> skia.Path:
    """Shoulders around a neck opening of half width `neck`."""
    half = 47.0 if identity.person == "man" else 41.0
    return outline(
        (50 - neck, neck_y),
        [(50 - neck - 6, neck_y + 4), (50 - half, 92), (50 - half - 4, 106)],
        [(50 - half - 6, BELOW)],
        [(50 + half + 6, BELOW)],
        [(50 + half + 4, 106)],
        [(50 + half, 92), (50 + neck + 6, neck_y + 4), (50 + neck, neck_y)],
        [(50 + neck - 3, neck_y + 9), (50 - neck + 3, neck_y + 9), (50 - neck, neck_y)],
    )


def _cloth(colour: tuple[int, int, int]) -> skia.Paint:
    stops = (argb(light(colour, 0.16)), argb(colour), argb(shade(colour, 0.34)))
    return linear((22, 84), (80, 108), stops)


def draw_garment(canvas: skia.Canvas, identity: Identity) -> None:
    _GARMENTS[identity.garment](canvas, identity)


def _collar(canvas: skia.Canvas, identity: Identity, neck: float, width: float) -> None:
    colour = identity.garment_colour.rgb
    rim = outline((50 - neck, 89.4), [(50 - neck + 3, 98.4), (50 + neck - 3, 98.4), (50 + neck, 89.4)], closed=False)
    canvas.drawPath(rim, stroke(shade(colour, 0.28), width))
    canvas.drawPath(rim, stroke(light(colour, 0.12), width * 0.55))


def _jumper(canvas: skia.Canvas, identity: Identity) -> None:
    canvas.drawPath(_torso(identity, 15), _cloth(identity.garment_colour.rgb))
    _collar(canvas, identity, 15, 3.4)


def _turtleneck(canvas: skia.Canvas, identity: Identity) -> None:
    colour = identity.garment_colour.rgb
    canvas.drawPath(_torso(identity, 13), _cloth(colour))
    roll = outline((36, 83), [(42, 87), (58, 87), (64, 83)], [(66, 97)], [(58, 101), (42, 101), (34, 97)])
    canvas.drawPath(roll, linear((34, 0), (66, 0), (argb(light(colour, 0.2)), argb(shade(colour, 0.25)))))
    for x in range(38, 64, 4):
        canvas.drawLine(x, 85.5, x, 99, stroke(shade(colour, 0.4), 0.6, 0.4))


def _shirt(canvas: skia.Canvas, identity: Identity) -> None:
    colour = identity.garment_colour.rgb
    canvas.drawPath(_torso(identity, 14), _cloth(colour))
    canvas.drawLine(50, 97, 50, 120, stroke(shade(colour, 0.4), 0.8, 0.7))
    for side in (-1, 1):
        flap = outline(
            (50 + side * 14.5, 86), [(50 + side * 19, 92)], [(50 + side * 9, 101)], [(50, 96.5)], [(50 + side * 10, 94)]
        )
        canvas.drawPath(flap, fill(light(colour, 0.28)))
        canvas.drawPath(flap, stroke(shade(colour, 0.4), 0.6, 0.6))


def _hoodie(canvas: skia.Canvas, identity: Identity) -> None:
    colour = identity.garment_colour.rgb
    canvas.drawPath(_torso(identity, 17), _cloth(colour))
    for side in (-1, 1):
        half = outline(
            (50 + side * 15, 84),
            [(50 + side * 27, 84), (50 + side * 31, 94)],
            [(50 + side * 14, 103), (50 + side * 2, 99)],
            [(50 + side * 13, 94), (50 + side * 15, 84)],
        )
        canvas.drawPath(half, fill(shade(colour, 0.16)))
        canvas.drawPath(half, stroke(light(colour, 0.3), 0.7, 0.7))
        canvas.drawLine(50 + side * 6, 99, 50 + side * 7, 112, stroke(light(colour, 0.7), 1.2))


def _jacket(canvas: skia.Canvas, identity: Identity) -> None:
    colour, under = identity.garment_colour.rgb, identity.second_colour.rgb
    canvas.drawPath(_torso(identity, 13), fill(under))
    for side in (-1, 1):
        front = outline(
            (50 + side * 15, 86),
            [(50 + side * 46, 91), (50 + side * 52, 108)],
            [(50 + side * 54, BELOW)],
            [(50, BELOW)],
            [(50 + side * 2, 108)],
        )
        canvas.drawPath(front, _cloth(colour))
        lapel = outline(
            (50 + side * 15, 86),
            [(50 + side * 23, 93)],
            [(50 + side * 17, 98)],
            [(50 + side * 3, 110)],
            [(50 + side * 8, 97)],
        )
        canvas.drawPath(lapel, fill(light(colour, 0.14)))
        canvas.drawPath(lapel, stroke(shade(colour, 0.4), 0.6, 0.8))


def _striped(canvas: skia.Canvas, identity: Identity) -> None:
    torso = _torso(identity, 16)
    canvas.drawPath(torso, _cloth(identity.garment_colour.rgb))
    canvas.save()
    canvas.clipPath(torso, True)
    for y in range(93, int(BELOW), 6):
        canvas.drawRect(skia.Rect(-200, y, 300, y + 2.6), fill(identity.second_colour.rgb, 0.9))
    canvas.restore()
    _collar(canvas, identity, 16, 2.4)


def _dungarees(canvas: skia.Canvas, identity: Identity) -> None:
    colour = identity.garment_colour.rgb
    canvas.drawPath(_torso(identity, 15), _cloth(light(identity.second_colour.rgb, 0.35)))
    for side in (-1, 1):
        strap = outline(
            (50 + side * 23, 90.5), [(50 + side * 30, 92)], [(50 + side * 25, BELOW)], [(50 + side * 17, BELOW)]
        )
        canvas.drawPath(strap, _cloth(colour))


_GARMENTS = {
    "jumper": _jumper,
    "turtleneck": _turtleneck,
    "shirt": _shirt,
    "hoodie": _hoodie,
    "jacket": _jacket,
    "striped top": _striped,
    "dungarees": _dungarees,
}
