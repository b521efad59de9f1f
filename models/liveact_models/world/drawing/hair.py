"""Hairstyles: what falls behind the head, what falls over the shoulders and what frames the forehead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import skia

from liveact_models.world.drawing import fringe
from liveact_models.world.drawing.paint import argb, fill, light, linear, modelled, shade, stroke
from liveact_models.world.drawing.strands import TOP, Spots, curls, gloss, half_width, ringlets, strands
from liveact_models.world.identity import Identity
from liveact_models.world.pose import Pose

Part = Callable[[skia.Canvas, Pose, Identity], None]


def _nothing(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    """No hair there."""


@dataclass(frozen=True)
class Hairstyle:
    draw_front: Part
    draw_back: Part = _nothing
    draw_locks: Part = _nothing


def _skull(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    """Short hair at the back of the head, seen past the temples when it turns."""
    half = half_width(identity)
    path = modelled(
        pose,
        (-half + 3.4, 6, -1),
        [(-half + 1.4, -8, -2), (-half + 0.8, -16, -2), (-half + 1.0, -24, -2)],
        [(-half + 3, -34, -2), (-16, TOP + 3, -3), (0, TOP + 3, -2)],
        [(16, TOP + 3, -3), (half - 3, -34, -2), (half - 1.0, -24, -2)],
        [(half - 0.8, -16, -2), (half - 1.4, -8, -2), (half - 3.4, 6, -1)],
    )
    canvas.drawPath(path, fill(shade(identity.hair_colour.rgb, 0.3)))


def _curtain(length: float, flare: float, wave: float) -> Part:
    """Hair falling behind the head to `length` below its middle."""

    def draw(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
        half, colour = half_width(identity), shade(identity.hair_colour.rgb, 0.30)
        end = half + flare
        path = modelled(
            pose,
            (-half + 8, -28, -7),
            [(-half - 2.5 - wave, -12, -10), (-end + 1.5 * wave, length * 0.4, -10), (-end, length * 0.55, -8)],
            [(-end - 1.5 * wave, length * 0.75, -8), (-end + wave, length * 0.9, -8), (-end + 5, length, -8)],
            [(end - 5, length, -8)],
            [(end - wave, length * 0.9, -8), (end + 1.5 * wave, length * 0.75, -8), (end, length * 0.55, -8)],
            [(end - 1.5 * wave, length * 0.4, -10), (half + 2.5 + wave, -12, -10), (half - 8, -28, -7)],
        )
        canvas.drawPath(path, linear((0, -10), (0, 60), (argb(colour), argb(shade(colour, 0.3)))))

    return draw


def _bob_back(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    half, colour = half_width(identity), identity.hair_colour.rgb
    path = modelled(
        pose,
        (-half + 8, -28, -7),
        [(-half - 4.5, -12, -9), (-half - 5.5, 16, -9), (-half - 3, 29, -8)],
        [(-half + 2, 33, -8), (-18, 31, -6), (-14, 28, -4)],
        [(14, 28, -4)],
        [(18, 31, -6), (half - 2, 33, -8), (half + 3, 29, -8)],
        [(half + 5.5, 16, -9), (half + 4.5, -12, -9), (half - 8, -28, -7)],
    )
    canvas.drawPath(path, linear((0, -14), (0, 32), (argb(shade(colour, 0.1)), argb(shade(colour, 0.34)))))


def _bob_locks(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    """The sides of a bob, over ears and cheeks' edges."""
    half, colour = half_width(identity), identity.hair_colour.rgb
    for side in (-1, 1):
        lock = modelled(
            pose,
            (side * (half - 8), -28, -1),
            [(side * (half + 4.0), -12, -4), (side * (half + 5.5), 16, -5), (side * (half + 3.2), 28.5, -4)],
            [(side * (half - 2), 31.5, -2), (side * (half - 7), 30, 0), (side * (half - 8), 27, 0)],
            [(side * (half - 3), 18, 0), (side * (half - 4), 6, 0), (side * (half - 12), -28, 3)],
        )
        canvas.drawPath(lock, gloss(colour, -20, 32))


def _ponytail(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    """A tail that falls to the picture's right, behind the shoulder."""
    colour = identity.hair_colour.rgb
    tail = modelled(
        pose,
        (18, -34, -16),
        [(40, -40, -18), (47, -14, -18), (41, 14, -16)],
        [(39, 26, -14), (42, 36, -14), (38, 46, -12)],
        [(32, 36, -12), (28, 20, -14), (30, 4, -16)],
        [(31, -12, -16), (27, -20, -14), (18, -24, -12)],
    )
    canvas.drawPath(tail, gloss(shade(colour, 0.12), -36, 46))
    strands(
        canvas,
        pose,
        colour,
        ((27, -31, -16), (39, -26, -18), (40, -8, -18), (36, 20, -14)),
        ((24, -28, -14), (34, -22, -16), (34, 0, -16), (35, 30, -14)),
    )


def _bun(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    """Tied up on the picture's right."""
    colour = identity.hair_colour.rgb
    x, y = pose.at(27, -33, -14)
    canvas.drawCircle(x, y, 10.0, gloss(shade(colour, 0.08), y - 11, y + 9))
    for radius, start in ((7.2, 200), (4.4, 150)):
        arc = skia.Path()
        arc.addArc(skia.Rect(x - radius, y - radius, x + radius, y + radius), start, 130)
        canvas.drawPath(arc, stroke(light(colour, 0.4), 0.9, 0.45))


def _long_locks(wave: float) -> Part:
    """Two locks in front of the ears and over the shoulders."""

    def draw(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
        half, colour = half_width(identity), identity.hair_colour.rgb
        for side in (-1, 1):
            x = side * half
            lock = modelled(
                pose,
                (x - side * 7.5, -26, 1),
                [(x + side * (3.6 + wave), -12, -3), (x + side * (3 - wave), 14, -4), (x + side * 3.5, 26, -4)],
                [(x + side * (5 + 1.6 * wave), 38, -4), (x + side * (2 - wave), 50, -3), (x + side * 2, 62, -3)],
                [(x - side * 10, 62, -2)],
                [(x - side * (7 - wave), 48, -2), (x - side * (9 + wave), 36, -2), (x - side * 6, 24, -2)],
                [(x - side * (3.4 - wave), 14, 0), (x - side * (5 + wave), 4, 2), (x - side * 11, -26, 4)],
            )
            canvas.drawPath(lock, gloss(colour, -20, 60))
            strand = (
                (x - side, -6, -2),
                (x + side * (0.5 + wave), 10, -3),
                (x - side * (1 + wave), 24, -3),
                (x, 44, -3),
            )
            inner = (
                (x - side * 3, 0, 0),
                (x - side * (2 - wave), 14, -2),
                (x - side * (4 + wave), 28, -2),
                (x - side * 4, 50, -2),
            )
            strands(canvas, pose, colour, strand, inner)

    return draw


def _cloud(radius: float, down_to: float) -> Part:
    """A round mass of curls behind the head."""

    def draw(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
        half, colour = half_width(identity) + radius, shade(identity.hair_colour.rgb, 0.22)
        rim = tuple(
            (side * half * (1.0 - 0.55 * max(0.0, -(y + 12) / 32) ** 2), y, -8.0, 8.0 + 0.8 * (number % 2))
            for side in (-1, 1)
            for number, y in enumerate(np.linspace(down_to, -38.0 - radius * 0.4, 9).tolist())
        )
        inner = tuple((x * 0.80, y, z, size) for x, y, z, size in rim if y > -6)
        top = -42 - radius * 0.4
        mass: Spots = ((-7, top, -8, 9), (7, top, -8, 9), (0, -12, -8, 31), (0, down_to - 22, -8, 31))
        canvas.drawPath(curls(pose, rim + inner + mass), fill(colour))
        ringlets(canvas, pose, colour, rim)

    return draw


def _capped_ends(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    """Shoulder-length hair tucked behind the ears."""
    half, colour = half_width(identity), shade(identity.hair_colour.rgb, 0.16)
    path = modelled(
        pose,
        (-half + 8, -28, -7),
        [(-half - 4, -10, -9), (-half - 2, 22, -9), (-half - 4, 37, -8)],
        [(-half + 6, 44, -8), (-14, 40, -6)],
        [(14, 40, -6)],
        [(half - 6, 44, -8), (half + 4, 37, -8)],
        [(half + 2, 22, -9), (half + 4, -10, -9), (half - 8, -28, -7)],
    )
    canvas.drawPath(path, linear((0, -14), (0, 40), (argb(colour), argb(shade(colour, 0.35)))))


HAIRSTYLES: dict[str, Hairstyle] = {
    "long straight": Hairstyle(fringe.parted, _curtain(62, 3, 0.0), _long_locks(0.0)),
    "long wavy": Hairstyle(fringe.swept, _curtain(62, 5, 2.4), _long_locks(2.4)),
    "fringed long": Hairstyle(fringe.fringed, _curtain(62, 3, 0.6), _long_locks(0.6)),
    "bobbed": Hairstyle(fringe.fringed, _bob_back, _bob_locks),
    "tied-up": Hairstyle(fringe.swept, _bun),
    "ponytail": Hairstyle(fringe.parted, _ponytail),
    "curly": Hairstyle(fringe.curly_top, _cloud(1.5, 26)),
    "afro": Hairstyle(fringe.curly_top, _cloud(5.0, 12)),
    "pixie-cut": Hairstyle(fringe.swept),
    "short": Hairstyle(fringe.short, _skull),
    "side-parted": Hairstyle(fringe.side_parted, _skull),
    "swept-back": Hairstyle(fringe.swept_back, _skull),
    "short curly": Hairstyle(fringe.curly_top),
    "cropped": Hairstyle(fringe.cropped),
    "no": Hairstyle(fringe.bald),
    "shoulder-length": Hairstyle(fringe.parted, _capped_ends),
}
"""By the names of `Identity.hair`."""
