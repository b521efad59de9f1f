"""Beards, glasses, earrings and hats."""

from __future__ import annotations

import skia

from liveact_models.world.drawing.eyes import eye_centre
from liveact_models.world.drawing.head import CHIN, EAR_Y, HALF_WIDTH
from liveact_models.world.drawing.mouth import MOUTH_Y, MOUTH_Z
from liveact_models.world.drawing.paint import WHITE, argb, fill, light, linear, modelled, oval, shade, stroke
from liveact_models.world.face import FaceState
from liveact_models.world.identity import Identity
from liveact_models.world.pose import Pose, clamp


def draw_beard(canvas: skia.Canvas, pose: Pose, identity: Identity, drop: float, face: skia.Path) -> None:
    """The part on the jaw; it sinks with it."""
    if identity.beard in ("none", "moustache"):
        return
    hair = identity.hair_colour.rgb
    half, chin = HALF_WIDTH * identity.face_width, CHIN + drop
    if identity.beard == "goatee":
        tuft = modelled(
            pose,
            (0, MOUTH_Y + 7.6 + 1.5 * drop, 24),
            [(7, MOUTH_Y + 7.6 + 1.5 * drop, 22), (8.5, chin + 1, 16), (0, chin + 2.6, 15)],
            [(-8.5, chin + 1, 16), (-7, MOUTH_Y + 7.6 + 1.5 * drop, 22), (0, MOUTH_Y + 7.6 + 1.5 * drop, 24)],
        )
        canvas.drawPath(tuft, fill(hair, 0.95))
        return
    full = identity.beard == "full beard"
    extra = 2.6 if full else -0.2
    beard = modelled(
        pose,
        (-half - 0.3, 0, 0),
        [(-half - 1, 22 + drop, 6), (-16, chin + extra + 0.6, 12), (0, chin + extra, 15)],
        [(16, chin + extra + 0.6, 12), (half + 1, 22 + drop, 6), (half + 0.3, 0, 0)],
        [(half - 3.5, 12, 8), (19, 14, 18), (11, 14.5, 22)],
        [(6, 14.6, 25), (-6, 14.6, 25), (-11, 14.5, 22)],
        [(-19, 14, 18), (-half + 3.5, 12, 8), (-half - 0.3, 0, 0)],
    )
    if full:
        canvas.drawPath(beard, linear((0, 6), (0, 38), (argb(light(hair, 0.06)), argb(shade(hair, 0.35)))))
    else:
        canvas.drawPath(beard, linear((0, 2), (0, 36), (argb(hair, 0.10), argb(hair, 0.36))))


def draw_moustache(canvas: skia.Canvas, pose: Pose, identity: Identity, state: FaceState) -> None:
    """Above the upper lip, rising with it."""
    if identity.beard not in ("moustache", "goatee", "full beard"):
        return
    smile, width = clamp(state.smile), clamp(state.width, 0) * (1 - 0.5 * clamp(state.round, 0))
    half = 8.0 + 3.4 * width
    y = MOUTH_Y - 3.2 - 2.2 * clamp(state.open, 0)
    end = MOUTH_Y - 0.6 - 3.0 * smile
    hair = identity.hair_colour.rgb
    lip = modelled(
        pose,
        (0, y - 2.4, MOUTH_Z + 1),
        [(4, y - 3.6, MOUTH_Z), (half - 1, y - 1.6, MOUTH_Z - 2), (half, end, MOUTH_Z - 3)],
        [(half - 3, y + 1.2, MOUTH_Z), (3, y + 0.8, MOUTH_Z), (0, y + 0.6, MOUTH_Z + 1)],
        [(-3, y + 0.8, MOUTH_Z), (-half + 3, y + 1.2, MOUTH_Z), (-half, end, MOUTH_Z - 3)],
        [(-half + 1, y - 1.6, MOUTH_Z - 2), (-4, y - 3.6, MOUTH_Z), (0, y - 2.4, MOUTH_Z + 1)],
    )
    canvas.drawPath(lip, fill(light(hair, 0.05), 0.97))


def draw_earrings(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    if identity.earrings == "none":
        return
    for side in (-1, 1):
        x, y = pose.at(side * (HALF_WIDTH * identity.face_width + 1.2), EAR_Y + 8.0, -3)
        if identity.earrings == "hoops":
            canvas.drawCircle(x, y + 3.0, 3.3, stroke((226, 182, 82), 1.0))
        else:
            canvas.drawCircle(x, y, 1.5, fill((226, 182, 82)))
            canvas.drawCircle(x - 0.4, y - 0.4, 0.5, fill(WHITE, 0.9))


def draw_glasses(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    if identity.glasses == "none":
        return
    paint = stroke(identity.frame_colour.rgb, 1.35)
    inner_edges = []
    for side in (-1, 1):
        x, y, z = eye_centre(identity, side)
        across, down = pose.at(x, y + 0.8, z + 4)
        half = 9.6 * pose.squeeze(x)
        inner_edges.append((across - side * half, down - 1.2))
        lens = oval(across, down, half, 9.4 if identity.glasses == "round" else 7.8)
        corner = (half, 9.4) if identity.glasses == "round" else (3.0, 3.0)
        canvas.drawRoundRect(lens, *corner, fill(WHITE, 0.10))
        canvas.drawRoundRect(lens, *corner, paint)
        glint = skia.Path()
        glint.moveTo(across - 4.6, down - 2.2)
        glint.lineTo(across - 2.0, down - 5.0)
        canvas.drawPath(glint, stroke(WHITE, 0.9, 0.55))
        ear_x, ear_y = pose.at(side * HALF_WIDTH * identity.face_width, EAR_Y - 4, -2)
        canvas.drawLine(across + side * half, down - 1.6, ear_x, ear_y, paint)
    (left_x, left_y), (right_x, right_y) = inner_edges
    bridge = skia.Path()
    bridge.moveTo(left_x, left_y)
    bridge.quadTo((left_x + right_x) / 2, left_y - 2.4, right_x, right_y)
    canvas.drawPath(bridge, paint)


def draw_hat(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    if identity.hat != "none":
        _HATS[identity.hat](canvas, pose, identity)


def _beanie(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    colour = identity.hat_colour.rgb
    crown = modelled(
        pose,
        (-33, -18, 0),
        [(-35, -40, -4), (-16, -47, -4), (0, -47, -4)],
        [(16, -47, -4), (35, -40, -4), (33, -18, 0)],
        [(20, -25, 16), (-20, -25, 16), (-33, -18, 0)],
    )
    canvas.drawPath(crown, linear((-30, -40), (34, -20), (argb(light(colour, 0.22)), argb(shade(colour, 0.25)))))
    band = modelled(
        pose,
        (-34, -22, 0),
        [(-20, -31, 18), (20, -31, 18), (34, -22, 0)],
        [(34.6, -14, 0)],
        [(20, -22, 18), (-20, -22, 18), (-34.6, -14, 0)],
    )
    canvas.drawPath(band, fill(shade(colour, 0.16)))
    for x in range(-28, 29, 7):
        top, bottom = (
            pose.at(x, -28.2 + 0.006 * x * x, 16 - abs(x) / 2),
            pose.at(x, -20.4 + 0.006 * x * x, 16 - abs(x) / 2),
        )
        canvas.drawLine(*top, *bottom, stroke(shade(colour, 0.45), 0.8, 0.5))


def _beret(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    colour = identity.hat_colour.rgb
    crown = modelled(
        pose,
        (-31, -22, 4),
        [(-44, -34, 0), (-26, -46, -2), (0, -45, -2)],
        [(26, -45, -2), (40, -36, 0), (31, -24, 4)],
        [(16, -33, 18), (-16, -33, 18), (-31, -22, 4)],
    )
    canvas.drawPath(crown, linear((-36, -44), (36, -20), (argb(light(colour, 0.22)), argb(shade(colour, 0.28)))))
    rim = modelled(pose, (-31, -22.4, 4), [(-16, -32, 18), (16, -32, 18), (31, -23.4, 4)], closed=False)
    canvas.drawPath(rim, stroke(shade(colour, 0.35), 2.2))


def _cap(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    colour = identity.hat_colour.rgb
    crown = modelled(
        pose,
        (-33, -20, 0),
        [(-34, -40, -4), (-16, -46, -4), (0, -46, -4)],
        [(16, -46, -4), (34, -40, -4), (33, -20, 0)],
        [(20, -26, 16), (-20, -26, 16), (-33, -20, 0)],
    )
    canvas.drawPath(crown, linear((-30, -42), (34, -22), (argb(light(colour, 0.22)), argb(shade(colour, 0.22)))))
    peak = modelled(
        pose,
        (-26, -24, 12),
        [(-16, -32, 22), (16, -32, 22), (26, -24, 12)],
        [(24, -16, 26), (-24, -16, 26), (-26, -24, 12)],
    )
    canvas.drawPath(peak, fill(shade(colour, 0.34)))
    seam = modelled(pose, (0, -46, -4), [(0.5, -38, 14), (0, -30, 20)], closed=False)
    canvas.drawPath(seam, stroke(shade(colour, 0.4), 0.7, 0.6))


def _headband(canvas: skia.Canvas, pose: Pose, identity: Identity) -> None:
    colour = identity.hat_colour.rgb
    half = HALF_WIDTH * identity.face_width + 2.6
    band = modelled(
        pose,
        (-half, -13, -3),
        [(-half + 6, -25, 12), (-14, -29, 20), (0, -29, 21)],
        [(14, -29, 20), (half - 6, -25, 12), (half, -13, -3)],
        [(half + 1.8, -21, -4)],
        [(half - 4, -33, 10), (14, -37, 17), (0, -37, 18)],
        [(-14, -37, 17), (-half + 4, -33, 10), (-half - 1.8, -21, -4)],
    )
    canvas.drawPath(band, linear((-30, -40), (30, -20), (argb(light(colour, 0.25)), argb(shade(colour, 0.2)))))


_HATS = {"beanie": _beanie, "beret": _beret, "cap": _cap, "headband": _headband}
