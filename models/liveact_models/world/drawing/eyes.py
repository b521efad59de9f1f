"""Eyes with lids, irises and lashes, and the brows above them."""

from __future__ import annotations

import skia

from liveact_models.world.drawing.paint import INK, WHITE, argb, fill, light, mix, outline, oval, radial, shade, stroke
from liveact_models.world.face import FaceState
from liveact_models.world.identity import Identity
from liveact_models.world.pose import Pose, clamp

EYE_X, EYE_Y, EYE_Z = 13.2, -1.4, 20.0
BROW_Y = -12.4
INNER, OUTER = -6.4, 6.9
"""Corners of an eye from its middle, towards the nose and away from it."""
UPPER, LOWER = -6.2, 4.4
"""Heights of the lids' curves (their control points) in an eye at rest."""
IRIS = 4.15


def eye_centre(identity: Identity, side: int) -> tuple[float, float, float]:
    return side * (EYE_X + 0.6 * identity.eye_gap), EYE_Y, EYE_Z


def draw_eyes(canvas: skia.Canvas, pose: Pose, identity: Identity, state: FaceState) -> None:
    for side in (-1, 1):
        x, y, z = eye_centre(identity, side)
        across, down = pose.at(x, y, z)
        size = 1.08 * identity.eye_size
        canvas.save()
        canvas.translate(across, down)
        canvas.scale(side * size * pose.squeeze(x), size * pose.squash(y))
        canvas.rotate(-3.0 * identity.eye_tilt)
        _draw_eye(canvas, identity, state, side)
        canvas.restore()


def _lids(upper: float, lower: float, slant: float = 0.0) -> skia.Path:
    """The opening between two lids; `slant` lowers the inner half of the upper one, as in anger."""
    return outline(
        (INNER, 1.0),
        [(-4.0, upper + slant), (2.8, upper - 0.7), (OUTER, -0.8)],
        [(4.4, lower + 0.2), (-2.8, lower + 0.5), (INNER, 1.0)],
    )


def _upper_lid(upper: float, slant: float) -> skia.Path:
    return outline((INNER, 1.0), [(-4.0, upper + slant), (2.8, upper - 0.7), (OUTER, -0.8)], closed=False)


def _draw_eye(canvas: skia.Canvas, identity: Identity, state: FaceState, side: int) -> None:
    skin = identity.skin.rgb
    blink, cheek = clamp(state.blink, 0), clamp(state.cheek, 0)
    raised, frown = clamp(state.brow_raise, 0), clamp(state.brow_frown, 0)
    lower = LOWER - 2.6 * cheek - 0.6 * frown - 0.8 * blink
    upper = UPPER - 2.8 * raised + 1.2 * frown + 0.6 * cheek
    upper += (lower - 0.2 - upper) * blink
    slant = 2.4 * frown * (1 - blink)
    socket = _lids(min(UPPER - 1.8 - 2.2 * raised, upper), LOWER + 1.0)
    canvas.drawPath(socket, fill(shade(skin, 0.36), 0.34 + 0.30 * blink))
    if blink < 0.97:
        opening = _lids(upper, lower, slant)
        canvas.drawPath(opening, fill((250, 248, 246)))
        canvas.save()
        canvas.clipPath(opening, True)
        _draw_iris(canvas, identity, state, side)
        canvas.drawPath(_upper_lid(upper, slant), stroke(INK, 3.0, 0.22))
        canvas.restore()
        rim = outline((OUTER, -0.8), [(4.4, lower + 0.2), (-2.8, lower + 0.5), (INNER, 1.0)], closed=False)
        canvas.drawPath(rim, stroke(shade(skin, 0.75), 0.6, 0.6))
    _draw_lashes(canvas, identity, upper, slant)


def _draw_iris(canvas: skia.Canvas, identity: Identity, state: FaceState, side: int) -> None:
    x = 0.2 + 2.7 * clamp(state.gaze_x) * side
    y = -0.8 + 1.7 * clamp(state.gaze_y)
    colour = identity.eye_colour.rgb
    rim = mix(colour, INK, 0.72)
    stops = (argb(light(colour, 0.38)), argb(colour), argb(rim))
    canvas.drawOval(oval(x, y, IRIS, IRIS), radial((x, y + 1.4), IRIS * 1.25, stops, (0.1, 0.62, 1.0)))
    canvas.drawOval(oval(x, y, 2.0, 2.0), fill((18, 12, 20)))
    canvas.drawOval(oval(x - 1.35 * side, y - 1.5, 1.25, 1.25), fill(WHITE, 0.96))
    canvas.drawOval(oval(x + 1.3 * side, y + 1.6, 0.65, 0.65), fill(WHITE, 0.55))


def _draw_lashes(canvas: skia.Canvas, identity: Identity, upper: float, slant: float) -> None:
    woman = identity.person == "woman"
    thick = 1.9 if woman else 1.5
    outer_x, outer_y = (OUTER + 1.7, -2.4) if woman else (OUTER + 0.3, -1.0)
    lash = outline(
        (INNER, 1.0),
        [(-4.0, upper + slant), (2.8, upper - 0.7), (OUTER, -0.8)],
        [(outer_x, outer_y)],
        [(3.2, upper - 0.7 - thick), (-4.0, upper + slant - 0.6 * thick), (INNER, 1.0)],
    )
    canvas.drawPath(lash, fill(INK))


def draw_brows(canvas: skia.Canvas, pose: Pose, identity: Identity, state: FaceState) -> None:
    raised, frown, sad = clamp(state.brow_raise, 0), clamp(state.brow_frown, 0), clamp(-state.smile, 0)
    sad *= 1 - frown
    weight = identity.brow_weight
    hair = identity.hair_colour.rgb if identity.hair != "no" else (70, 52, 46)
    dark_skin = sum(identity.skin.rgb) < 360
    paint = fill(mix(hair, INK, 0.6 if dark_skin else 0.35 if sum(hair) > 300 else 0.1), 0.95)
    for side in (-1, 1):
        x = side * (EYE_X + 0.6 * identity.eye_gap)
        across, down = pose.at(x, BROW_Y - 6.0 * raised + 2.2 * frown, EYE_Z + 1)
        inner_y = 4.2 * frown - 4.2 * sad
        inner_x = -6.6 - 1.8 * frown - 0.6 * sad
        outer_y = 0.4 - 1.4 * frown + 2.0 * sad
        arch = -1.6 - 1.8 * identity.brow_arch - 0.8 * raised
        canvas.save()
        canvas.translate(across, down)
        canvas.scale(side * pose.squeeze(x), pose.squash(BROW_Y))
        brow = outline(
            (inner_x, inner_y + 0.9 * weight),
            [(-2.6, arch + 0.65 * inner_y + 1.9 * weight), (3.2, arch + 1.2 * weight), (8.2, outer_y + 0.6)],
            [
                (3.6, arch - 1.0 * weight),
                (-2.6, arch + 0.65 * inner_y - 0.6 * weight),
                (inner_x + 0.6, inner_y - 1.1 * weight),
            ],
            [(inner_x - 0.6, inner_y - 0.6 * weight), (inner_x, inner_y + 0.9 * weight)],
        )
        canvas.drawPath(brow, paint)
        canvas.restore()
