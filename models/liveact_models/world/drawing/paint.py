"""Colours, paints and outlines: the few words every part of the picture is painted with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import skia

from liveact_models.world.pose import Pose

RGB = tuple[int, int, int]
Point = tuple[float, float]

PAINTS = 4096
"""Paints kept for reuse: making one costs as much as a small shape, and nothing ever changes one."""

WHITE: RGB = (255, 255, 255)
INK: RGB = (38, 26, 40)


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """The colour `share` of the way from the first to the second."""
    return (
        int(first[0] + (second[0] - first[0]) * share),
        int(first[1] + (second[1] - first[1]) * share),
        int(first[2] + (second[2] - first[2]) * share),
    )


def shade(colour: RGB, share: float) -> RGB:
    """Darker and warmer, as in shadow."""
    red, green, blue = colour
    return mix(colour, (red // 2 - red // 10, green // 4, blue // 3), share)


def light(colour: RGB, share: float) -> RGB:
    """Lighter, as where the lamp falls."""
    return mix(colour, (255, 250, 238), share)


def glow(colour: RGB, share: float) -> RGB:
    """Brighter in its own hue, as skin in the light."""
    gain = min(1.4, 250 / max(colour))
    bright = (int(colour[0] * gain), int(colour[1] * gain), int(colour[2] * gain))
    return mix(colour, mix(bright, (255, 238, 222), 0.28), share)


def argb(colour: RGB, alpha: float = 1.0) -> int:
    return (int(alpha * 255 + 0.5) << 24) | (colour[0] << 16) | (colour[1] << 8) | colour[2]


@lru_cache(maxsize=PAINTS)
def fill(colour: RGB, alpha: float = 1.0) -> skia.Paint:
    return skia.Paint(AntiAlias=True, Color=argb(colour, alpha))


@lru_cache(maxsize=PAINTS)
def stroke(colour: RGB, width: float, alpha: float = 1.0) -> skia.Paint:
    """A line with round ends, `width` in units of the canvas."""
    return skia.Paint(
        AntiAlias=True,
        Color=argb(colour, alpha),
        Style=skia.Paint.kStroke_Style,
        StrokeWidth=width,
        StrokeCap=skia.Paint.kRound_Cap,
        StrokeJoin=skia.Paint.kRound_Join,
    )


@lru_cache(maxsize=PAINTS)
def linear(start: Point, end: Point, colours: tuple[int, ...], stops: tuple[float, ...] | None = None) -> skia.Paint:
    """Filled with a gradient along a line; colours as `argb`."""
    return skia.Paint(
        AntiAlias=True, Shader=skia.GradientShader.MakeLinear([start, end], list(colours), stops and list(stops))
    )


@lru_cache(maxsize=PAINTS)
def radial(
    centre: Point, radius: float, colours: tuple[int, ...], stops: tuple[float, ...] | None = None
) -> skia.Paint:
    """Filled with a gradient from a centre outwards; colours as `argb`."""
    shader = skia.GradientShader.MakeRadial(centre, radius, list(colours), stops and list(stops))
    return skia.Paint(AntiAlias=True, Shader=shader)


def outline(start: Point, *segments: Sequence[Point], closed: bool = True) -> skia.Path:
    """A path of lines (1 point a segment), quadratic (2) and cubic curves (3)."""
    path = skia.Path()
    path.moveTo(*start)
    for points in segments:
        if len(points) == 3:
            (ax, ay), (bx, by), (cx, cy) = points
            path.cubicTo(ax, ay, bx, by, cx, cy)
        elif len(points) == 2:
            (ax, ay), (bx, by) = points
            path.quadTo(ax, ay, bx, by)
        else:
            path.lineTo(*points[0])
    if closed:
        path.close()
    return path


def oval(x: float, y: float, half_width: float, half_height: float) -> skia.Rect:
    return skia.Rect(x - half_width, y - half_height, x + half_width, y + half_height)


Solid = tuple[float, float, float]


def modelled(pose: Pose, start: Solid, *segments: Sequence[Solid], closed: bool = True) -> skia.Path:
    """An outline through points of the head with depth, as the pose shows them."""
    at = pose.at
    return outline(at(*start), *[[at(*point) for point in segment] for segment in segments], closed=closed)
