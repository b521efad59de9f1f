"""Hair that frames the forehead and covers the skull."""

from __future__ import annotations

from collections.abc import Sequence

import skia

from liveact_models.world.drawing.head import HALF_WIDTH
from liveact_models.world.drawing.paint import Solid, argb, fill, light, linear, mix, modelled, shade, stroke
from liveact_models.world.drawing.strands import TOP, curls, gloss, half_width, ringlets, shadow, strands
from liveact_models.world.identity import Identity
from liveact_models.world.pose import Pose


def _cap(
    pose: Pose,
    identity: Identity,
    hairline: Sequence[Sequence[Solid]],
    top: float = TOP,
    side: float = 4.0,
    bulge: float = 0.0,
) -> skia.Path:
    """From the left sideburn over the top to the right one, and back along the hairline (which ends at the left sideburn)."""
    half = half_width(identity)
    return modelled(
        pose,
        (-half, side, -3),
        [(-half - 2 - bulge, -20, -5), (-half + 4 - bulge, top, -4), (0, top, -2)],
        [(half - 4 + bulge, top, -4), (half + 2 + bulge, -20, -5), (half, side, -3)],
        *hairline,
    )


def _sides(half: float, end: float) -> tuple[Solid, Solid]:
    """Inner edges of the right and left sideburns at the given height."""
    return (half - 4.6, end, 2), (-half + 4.6, end, 2)


def parted(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    """Parted in the middle, two curtains."""
    half, colour = half_width(identity), identity.hair_colour.rgb
    hairline = (
        [(half - 2.8, 8, 0), (half - 3.6, 10, 2), (half - 4.4, 7, 3)],
        [(half - 5.5, -10, 9), (18, -25, 18), (0, -32, 18)],
        [(-18, -25, 18), (-half + 5.5, -10, 9), (-half + 4.4, 7, 3)],
        [(-half + 3.6, 10, 2), (-half + 2.8, 8, 0), (-half, 4, -3)],
    )
    path = _cap(pose, identity, hairline)
    shadow(canvas, identity, path)
    canvas.drawPath(path, gloss(colour, TOP, 8))
    strands(
        canvas,
        pose,
        colour,
        ((-3, -36, 14), (-16, -33, 12), (-26, -22, 6), (-half + 2, -2, 0)),
        ((3, -35, 14), (17, -31, 12), (25, -22, 8), (half - 3.4, -4, 2)),
        ((5, -38, 10), (20, -36, 8), (28, -24, 2), (half - 1, -4, -1)),
        ((-2, -34, 16), (-17, -29, 14), (-25, -20, 8), (-half + 3.8, 0, 2)),
    )
    part = modelled(pose, (0, TOP + 3, 6), [(0.4, -38, 14), (0, -32, 18)], closed=False)
    canvas.drawPath(part, stroke(shade(colour, 0.6), 0.9, 0.7))


def fringed(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    """A full fringe down to the brows."""
    half, colour = half_width(identity), identity.hair_colour.rgb
    edge = -17.5
    hairline = (
        [(half - 2.8, 10, 0), (half - 3.8, 12, 2), (half - 4.4, 9, 3)],
        [(half - 4.6, 0, 6), (half - 5.2, -8, 9), (half - 7, edge + 3, 12)],
        [(18, edge + 1.5, 19), (15, edge + 0.6, 20)],
        [(14, edge - 2.6, 21)],
        [(8, edge + 0.8, 23), (1.6, edge + 0.4, 23)],
        [(0.4, edge - 2.4, 23)],
        [(-6, edge + 0.8, 23), (-12, edge + 0.6, 21)],
        [(-13.4, edge - 2.2, 21)],
        [(-18, edge + 1.5, 19), (-half + 7, edge + 3, 12)],
        [(-half + 5.2, -8, 9), (-half + 4.6, 0, 6), (-half + 4.4, 9, 3)],
        [(-half + 3.8, 12, 2), (-half + 2.8, 10, 0), (-half, 4, -3)],
    )
    path = _cap(pose, identity, hairline)
    shadow(canvas, identity, path)
    canvas.drawPath(path, gloss(colour, TOP, 2))
    strands(
        canvas,
        pose,
        colour,
        ((-4, -40, 10), (-9, -34, 18), (-10, -28, 22), (-9, -21, 22)),
        ((0, -40, 10), (0, -34, 18), (0.6, -28, 22), (0.5, -20, 23)),
        ((6, -40, 10), (11, -34, 18), (13, -28, 20), (12, -21, 21)),
        ((10, -40, 8), (19, -35, 14), (22, -28, 16), (20, -19, 16)),
        ((-10, -40, 8), (-20, -34, 14), (-24, -24, 10), (-half + 4, -4, 2)),
    )


def swept(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    """Parted on the side, the longer part falling across the forehead."""
    half, colour = half_width(identity), identity.hair_colour.rgb
    hairline = (
        [(half - 2.8, 7, 0), (half - 3.6, 8, 2), (half - 4.4, 5, 3)],
        [(half - 5.6, -6, 8), (half - 6, -14, 12), (half - 8, -16, 14)],
        [(10, -19, 20), (-4, -25, 20), (-12, -32, 16)],
        [(-19, -26, 14), (-half + 6, -12, 8), (-half + 4.4, 5, 3)],
        [(-half + 3.6, 8, 2), (-half + 2.8, 7, 0), (-half, 4, -3)],
    )
    path = _cap(pose, identity, hairline, bulge=0.6)
    shadow(canvas, identity, path)
    canvas.drawPath(path, gloss(colour, TOP, 4))
    strands(
        canvas,
        pose,
        colour,
        ((-9, -36, 14), (4, -34, 18), (18, -28, 16), (half - 6, -17, 10)),
        ((-11, -33, 16), (2, -29, 20), (14, -22, 20), (half - 8, -18, 14)),
        ((-7, -39, 10), (8, -38, 12), (24, -30, 8), (half - 3, -14, 2)),
        ((-14, -36, 10), (-23, -30, 8), (-29, -18, 2), (-half + 2, -2, -1)),
    )


def _fade(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    """Short sides that let the skin through."""
    half = half_width(identity)
    colour = mix(identity.hair_colour.rgb, identity.skin.rgb, 0.16)
    right, left = _sides(half, 0)
    path = modelled(
        pose,
        (-half + 3.6, 0, -1),
        [(-half + 1.4, -10, -3), (-half + 0.4, -16, -4), (-half + 0.6, -24, -4)],
        [(-half + 2, -34, -4), (-16, TOP + 2, -4), (0, TOP + 2, -2)],
        [(16, TOP + 2, -4), (half - 2, -34, -4), (half - 0.6, -24, -4)],
        [(half - 0.4, -16, -4), (half - 1.4, -10, -3), (half - 3.6, 0, -1)],
        [right],
        [(half - 5.2, -10, 5), (half - 6.4, -16, 9), (half - 7.2, -22, 11)],
        [(12, -30, 18), (-12, -30, 18), (-half + 7.2, -22, 11)],
        [(-half + 6.4, -16, 9), (-half + 5.2, -10, 5), left],
    )
    canvas.drawPath(path, linear((0, -26), (0, 0), (argb(shade(colour, 0.12)), argb(colour, 0.72))))


def _top(canvas: skia.Canvas, pose: Pose, identity: Identity, path: skia.Path, *flow: tuple[Solid, ...]) -> None:
    """Longer hair over faded sides."""
    shadow(canvas, identity, path)
    _fade(canvas, pose, identity)
    canvas.drawPath(path, gloss(identity.hair_colour.rgb, TOP - 3, -16))
    strands(canvas, pose, identity.hair_colour.rgb, *flow)


def short(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    """Faded sides, a textured fringe on top."""
    half = half_width(identity)
    path = modelled(
        pose,
        (-half + 4.2, -15, 4),
        [(-half - 2.2, -26, -2), (-half + 2, -42, -3), (-9, TOP - 1, -2)],
        [(-4, TOP - 3.4, -2), (3, TOP - 2.6, -2)],
        [(10, TOP - 3.0, -2), (14, TOP - 0.6, -3)],
        [(half - 2, -40, -3), (half + 2.4, -26, -2), (half - 4.2, -15, 4)],
        [(half - 6.4, -20, 9), (half - 8, -23, 12)],
        [(20, -22, 16), (17.5, -19.2, 17)],
        [(16.5, -23, 18), (13.5, -25.4, 19)],
        [(12, -21, 20), (8.6, -19.2, 20)],
        [(8, -23, 20), (4.4, -25.8, 20)],
        [(2, -21.4, 20), (-1.6, -20.0, 20)],
        [(-2.6, -24, 20), (-6.4, -26.4, 19)],
        [(-9, -22.6, 18), (-12.6, -21.2, 18)],
        [(-13, -25, 17), (-15.8, -26.6, 15)],
        [(-half + 8, -23, 12), (-half + 4.2, -15, 4)],
    )
    _top(
        canvas,
        pose,
        identity,
        path,
        ((-16, -30, 14), (-15, -36, 10), (-10, -40, 6), (-3, -42, 2)),
        ((-7, -28, 18), (-5, -35, 14), (1, -40, 8), (8, -42, 4)),
        ((4, -28, 19), (7, -35, 14), (12, -39, 8), (19, -38, 2)),
        ((13, -28, 17), (18, -33, 12), (22, -34, 6), (25, -32, 2)),
    )


def side_parted(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    """Faded sides, combed over from a parting on the picture's left."""
    half = half_width(identity)
    path = modelled(
        pose,
        (-half + 6.6, -21, 10),
        [(-half + 3, -34, 0), (-20, TOP - 1, -2), (-8, TOP - 3, -2)],
        [(8, TOP - 5, -2), (half - 1, -43, -3), (half + 1.4, -26, -2)],
        [(half + 1.2, -20, 0), (half - 1.6, -15, 2), (half - 4.2, -13, 4)],
        [(half - 5, -18, 9), (half - 6.5, -22, 12), (half - 9, -24, 14)],
        [(13, -25, 19), (2, -23, 20), (-12, -31, 17)],
        [(-16, -29, 16), (-half + 9, -25, 13), (-half + 6.6, -21, 10)],
    )
    _top(
        canvas,
        pose,
        identity,
        path,
        ((-11, -34, 16), (0, -37, 16), (14, -34, 14), (24, -24, 8)),
        ((-12, -32, 17), (-3, -29, 19), (10, -27, 19), (21, -25, 13)),
        ((-11, -38, 12), (4, -42, 8), (20, -39, 4), (half - 2, -24, -1)),
    )


def swept_back(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    """Faded sides and a high quiff, brushed up and over to the picture's right."""
    half = half_width(identity)
    path = modelled(
        pose,
        (-half + 5.4, -18, 7),
        [(-half - 2.0, -28, -2), (-half + 1, -43, -2), (-13, TOP - 3.4, 0)],
        [(0, TOP - 7.4, 2), (half - 8, TOP - 3.4, 0), (half + 0.6, -35, -2)],
        [(half + 3, -28, -2), (half - 1, -20, 2), (half - 5.4, -18, 7)],
        [(half - 8, -25, 12), (14, -27, 18), (4, -28.6, 19)],
        [(-4, -29.5, 19), (-12, -28, 18), (-19, -26, 15)],
        [(-half + 9, -25, 12), (-half + 6.4, -22, 9), (-half + 5.4, -18, 7)],
    )
    _top(
        canvas,
        pose,
        identity,
        path,
        ((-19, -27, 15), (-22, -36, 8), (-16, -43, 4), (-4, -45, 0)),
        ((-9, -29, 18), (-11, -38, 12), (-3, -44, 6), (9, -46, 0)),
        ((2, -29.5, 19), (1, -38, 13), (9, -43, 6), (20, -43, 0)),
        ((12, -28.5, 18), (13, -35, 12), (19, -40, 6), (27, -37, 0)),
    )


def cropped(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    """A shadow of hair, close to the skull."""
    half, colour = HALF_WIDTH * identity.face_width, mix(identity.hair_colour.rgb, identity.skin.rgb, 0.22)
    path = modelled(
        pose,
        (-half - 0.6, -4, -2),
        [(-half - 1.6, -24, -2), (-20, -38.6, 0), (0, -38.6, 0)],
        [(20, -38.6, 0), (half + 1.6, -24, -2), (half + 0.6, -4, -2)],
        [(half - 2.4, -4, 2)],
        [(half - 3, -14, 6), (half - 4, -20, 9), (half - 6, -23, 11)],
        [(14, -27, 18), (-14, -27, 18), (-half + 6, -23, 11)],
        [(-half + 4, -20, 9), (-half + 3, -14, 6), (-half + 2.4, -4, 2)],
    )
    canvas.drawPath(
        path, linear((-8, -40), (8, -6), (argb(light(colour, 0.18)), argb(colour), argb(shade(colour, 0.2))))
    )


def bald(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    """Only the shine of the skull."""
    x, y = pose.at(-8, -27, 16)
    canvas.save()
    canvas.translate(x, y)
    canvas.rotate(-18)
    canvas.drawOval(skia.Rect(-8, -2.6, 8, 2.6), fill(light(identity.skin.rgb, 0.8), 0.32))
    canvas.restore()


def curly_top(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    """Curls along the forehead and over the skull."""
    half, colour = half_width(identity), identity.hair_colour.rgb
    crown = (
        (-half + 1, -6, 0, 4.6), (-half + 1, -14, 2, 5.6), (-half + 3, -22, 2, 6.4), (-half + 8, -30, 2, 7.4), (-16, -36, 2, 8),
        (-6, -39, 2, 8), (5, -39, 2, 8), (15, -36.5, 2, 8), (half - 8, -30.5, 2, 7.4), (half - 3, -22, 2, 6.4),
        (half - 1, -14, 2, 5.6), (half - 1, -6, 0, 4.6),
    )  # fmt: skip
    brow = (
        (-19, -26, 14, 5.6),
        (-11, -29.5, 16, 6),
        (-2, -31, 17, 6),
        (7, -30.5, 17, 6),
        (15, -28.5, 15, 6),
        (21, -24, 12, 5.4),
    )
    between = ((-13, -32, 9, 7.5), (0, -33, 10, 8), (13, -32, 9, 7.5), (-22, -28, 7, 6), (22, -28, 7, 6))
    shadow(canvas, identity, curls(pose, brow))
    canvas.drawPath(curls(pose, crown + between + brow), gloss(colour, TOP - 2, 0))
    ringlets(canvas, pose, colour, crown + brow)
