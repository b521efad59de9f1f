"""The bare head: neck, ears, the face's surface with its shading, and the nose."""

from __future__ import annotations

import skia

from liveact_models.world.drawing.paint import (
    RGB,
    argb,
    fill,
    glow,
    linear,
    mix,
    modelled,
    outline,
    oval,
    radial,
    shade,
    stroke,
)
from liveact_models.world.face import FaceState
from liveact_models.world.identity import Identity
from liveact_models.world.pose import Pose, clamp

FACE_TOP, CHIN = -36.0, 35.5
HALF_WIDTH = 28.5
JAW_DROP = 4.6
"""How far the chin sinks when the mouth is wide open."""
EAR_Y = 2.5


def jaw_drop(state: FaceState) -> float:
    return clamp(state.open, 0) * JAW_DROP


def face_outline(pose: Pose, identity: Identity, drop: float) -> skia.Path:
    """The edge of the face from the top of the forehead around the chin."""
    half = HALF_WIDTH * identity.face_width
    jaw = half * (0.70 + 0.14 * identity.jaw)
    chin_half = 8.0 + 4.5 * identity.jaw
    chin = CHIN + 1.3 * identity.chin + drop
    return modelled(
        pose,
        (0, FACE_TOP, 4),
        [(17, FACE_TOP, 4), (half, -27, 1), (half, -7, 0)],
        [(half, 5, 1), (half - 1, 13, 4), (jaw, 21.5 + 0.6 * drop, 8)],
        [(jaw - 4.5, 28 + 0.9 * drop, 11), (chin_half, chin, 14), (0, chin, 15)],
        [(-chin_half, chin, 14), (-jaw + 4.5, 28 + 0.9 * drop, 11), (-jaw, 21.5 + 0.6 * drop, 8)],
        [(-half + 1, 13, 4), (-half, 5, 1), (-half, -7, 0)],
        [(-half, -27, 1), (-17, FACE_TOP, 4), (0, FACE_TOP, 4)],
    )


def draw_neck(canvas: skia.Canvas, pose: Pose, identity: Identity, drop: float) -> None:
    """From the head, wherever it is, down into still shoulders; in hundredths of the picture."""
    half = 14.0 if identity.person == "man" else 11.0
    left, right = pose.place(-half, 20, -4), pose.place(half, 20, -4)
    skin = identity.skin.rgb
    neck = outline(
        left,
        [(50 - half, 84), (50 - half - 1, 89), (50 - half - 5, 95)],
        [(50, 130)],
        [(50 + half + 5, 95)],
        [(50 + half + 1, 89), (50 + half, 84), right],
    )
    dark = shade(skin, 0.42)
    chin_y = pose.place(0, CHIN + drop, 10)[1]
    canvas.drawPath(neck, linear((0, chin_y - 4), (0, chin_y + 14), (argb(dark), argb(shade(skin, 0.12)))))


def draw_ears(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    skin = identity.skin.rgb
    half = HALF_WIDTH * identity.face_width
    for side in (-1, 1):
        x, y = pose.at(side * (half + 0.8), EAR_Y, -4)
        canvas.save()
        canvas.translate(x, y)
        canvas.scale(side, 1)
        canvas.rotate(8)
        canvas.drawOval(oval(0, 0, 4.6, 7.6), fill(shade(skin, 0.10)))
        inner = outline((-0.6, -4.6), [(3.6, -5.0), (3.4, 1.0), (0.2, 4.6)], closed=False)
        canvas.drawPath(inner, stroke(shade(skin, 0.42), 1.1, 0.7))
        canvas.restore()


def draw_face(canvas: skia.Canvas, pose: Pose, identity: Identity, state: FaceState, outline_path: skia.Path) -> None:
    """The surface: light from the upper left, warm shadow to the right and under the brows, blush on the cheeks."""
    skin = identity.skin.rgb
    lit, dark = glow(skin, 0.55), shade(skin, 0.30)
    centre = pose.at(-7, -8, 22)
    canvas.drawPath(outline_path, radial(centre, 52, (argb(lit), argb(skin), argb(dark)), (0.0, 0.5, 1.0)))
    blush = mix(skin, (226, 74, 84), 0.75)
    cheek = clamp(state.cheek, 0)
    strength = 0.34 * identity.blush + 0.30 * cheek
    for side in (-1, 1):
        squeeze = pose.squeeze(side * 16)
        x, y = pose.at(side * 17, 10.8 - 1.5 * cheek, 18)
        canvas.save()
        canvas.translate(x, y)
        canvas.scale(squeeze, 0.82)
        canvas.drawOval(
            oval(0, 0, 10, 10),
            radial((0, 0), 10, (argb(blush, strength), argb(blush, 0.6 * strength), argb(blush, 0)), (0.0, 0.45, 1.0)),
        )
        canvas.restore()
        _draw_freckles(canvas, pose, identity, side)


def _draw_freckles(canvas: skia.Canvas, pose: Pose, identity: Identity, side: int) -> None:
    if not identity.freckles:
        return
    dots = skia.Path()
    for x, y in ((9, 9), (12, 10.5), (15, 8.5), (13, 13), (17, 11.5), (10, 12.5)):
        across, down = pose.at(side * x, y, 20)
        dots.addCircle(across, down, 0.55)
    canvas.drawPath(dots, fill(shade(identity.skin.rgb, 0.6), 0.5))


def draw_nose(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    skin: RGB = identity.skin.rgb
    size, width = identity.nose_size, identity.nose_width
    dark, wing = shade(skin, 0.55), 4.9 * width * size
    tip = 11.0 * size
    side_plane = modelled(
        pose,
        (1.6, -7, 20),
        [(2.6, 1, 24), (2.2, 5, 28), (3.2, tip - 2, 30)],
        [(5.4, tip - 1, 26), (wing + 0.6, tip + 1.2, 24), (wing, tip + 2.2, 24)],
        [(2, tip + 3.4, 28), (0.5, tip + 2.6, 30)],
        [(0.8, 4, 29), (0.6, -2, 24), (1.6, -7, 20)],
    )
    canvas.drawPath(side_plane, fill(dark, 0.20))
    under = modelled(
        pose,
        (-wing, tip + 0.8, 24),
        [(-wing + 0.6, tip + 2.6, 25), (-2.4, tip + 1.8, 28), (0, tip + 2.6, 29)],
        [(2.4, tip + 1.8, 28), (wing - 0.6, tip + 2.6, 25), (wing, tip + 0.8, 24)],
        [(wing - 0.2, tip + 3.6, 24), (2.4, tip + 3.6, 26), (0, tip + 4.1, 27)],
        [(-2.4, tip + 3.6, 26), (-wing + 0.2, tip + 3.6, 24), (-wing, tip + 0.8, 24)],
    )
    canvas.drawPath(under, fill(dark, 0.55))
    for side in (-1, 1):
        x, y = pose.at(side * 2.5 * width, tip + 2.6, 27)
        canvas.drawOval(oval(x, y, 1.25 * pose.squeeze(side * 3), 0.75), fill(shade(skin, 0.95), 0.75))
        curl = modelled(
            pose,
            (side * (wing - 0.9), tip - 2.4, 25),
            [(side * (wing + 0.9), tip - 1.6, 24), (side * (wing + 0.9), tip + 1.4, 24), (side * wing, tip + 2.2, 24)],
            closed=False,
        )
        canvas.drawPath(curl, stroke(dark, 0.7, 0.45))
    x, y = pose.at(-0.8, tip - 2.2, 31)
    canvas.drawOval(oval(x, y, 1.9 * size, 1.6 * size), fill(glow(skin, 1.0), 0.6))
    bridge = modelled(pose, (-0.5, -4, 23), [(-0.9, 1, 26), (-0.8, tip - 5, 29)], closed=False)
    canvas.drawPath(bridge, stroke(glow(skin, 1.0), 1.4, 0.35))
