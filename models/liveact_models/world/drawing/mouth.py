"""Lips, teeth and tongue: the part of the picture that is judged, so each of its four values shows in pixels on its own."""

from __future__ import annotations

import skia

from liveact_models.world.drawing.paint import INK, argb, fill, light, linear, mix, outline, oval, shade, stroke
from liveact_models.world.face import FaceState
from liveact_models.world.identity import Identity
from liveact_models.world.pose import Pose, clamp

MOUTH_Y, MOUTH_Z = 22.2, 25.0
SCALE = 1.15
"""Mouths are drawn a little larger than life: at 128 pixels every one of them counts."""
REST_HALF, STRETCH = 9.8, 6.6
"""Half the width at rest and what full stretching adds to the whole of it."""
ROUNDING = 0.44
"""Share of the width that rounding takes."""
OPEN_UP, OPEN_DOWN = 2.4, 10.0
"""How far the lips' edges part at open 1."""
CAVITY, TONGUE, TEETH = (74, 20, 32), (212, 98, 104), (252, 250, 244)


def draw_mouth(canvas: skia.Canvas, pose: Pose, identity: Identity, state: FaceState) -> None:
    across, down = pose.at(0, MOUTH_Y, MOUTH_Z + 2.0 * clamp(state.round, 0))
    canvas.save()
    canvas.translate(across, down)
    canvas.scale(SCALE * pose.squeeze(0), SCALE * pose.squash(MOUTH_Y))
    _Lips(identity, state).draw(canvas)
    canvas.restore()


class _Lips:
    """The curves of one mouth; y is down, 0 where closed lips meet."""

    def __init__(self, identity: Identity, state: FaceState) -> None:
        opened, rounded = clamp(state.open, 0), clamp(state.round, 0)
        stretched, bared, smile = clamp(state.width, 0), clamp(state.teeth, 0), clamp(state.smile)
        shut = 1 - opened
        self.identity, self.opened, self.rounded, self.bared, self.smile = identity, opened, rounded, bared, smile
        self.half = (REST_HALF + STRETCH * (stretched - 0.5)) * (1 - ROUNDING * rounded) * (1 + 0.18 * max(smile, 0.0))
        self.inner = self.half - 0.9 - 0.9 * rounded
        self.corner = -3.6 * smile - 0.9 + 2.4 * rounded * opened
        bend = 1.0 * smile + 0.5
        self.upper = bend - (OPEN_UP + 1.2 * rounded) * opened - (1.2 * bared + 0.5 * rounded) * shut
        self.lower = bend + (OPEN_DOWN + 2.0 * max(-smile, 0.0)) * opened + (2.2 * bared + 0.5 * rounded) * shut
        full = identity.lip_fullness
        self.upper_lip = 2.6 * full * (1 + 0.40 * rounded)
        self.lower_lip = 3.5 * full * (1 + 0.40 * rounded) * (1 - 0.15 * bared * shut)
        self.reach = 0.52 + 0.20 * rounded + 0.20 * opened * (1 - 0.4 * rounded)
        """How far towards the corners the edges stay apart: rounder mouths, rounder holes."""

    def _edge(self, middle: float, half: float) -> list[tuple[float, float]]:
        """The curve from the left corner to the right that passes `middle` in the middle."""
        control = (middle - 0.25 * self.corner) / 0.75
        return [(-half * self.reach, control), (half * self.reach, control), (half, self.corner)]

    def _back(self, middle: float, half: float) -> list[tuple[float, float]]:
        control = (middle - 0.25 * self.corner) / 0.75
        return [(half * self.reach, control), (-half * self.reach, control), (-half, self.corner)]

    def draw(self, canvas: skia.Canvas) -> None:
        skin, lips = self.identity.skin.rgb, self.identity.lip_colour
        half, inner, corner = self.half, self.inner, self.corner
        bottom = self.lower + self.lower_lip
        if self.identity.beard not in ("goatee", "full beard"):
            under = outline(
                (-half * 0.45, bottom + 1.9), [(0, bottom + 3.0), (half * 0.45, bottom + 1.9)], closed=False
            )
            canvas.drawPath(under, stroke(shade(skin, 0.5), 1.3, 0.32 * (1 - self.opened)))
        self._draw_corners(canvas)
        peak = self.upper - self.upper_lip
        ring = self.rounded * self.opened
        shoulder, slope = half * (0.62 + 0.2 * ring), (peak + corner) / 2 - 0.9 + ring * (peak - corner) / 6
        upper = outline(
            (-half, corner),
            [(-shoulder, slope), (-half * 0.40, peak - 0.3), (-half * 0.24, peak)],
            [(-0.9, peak + 0.1), (0, peak + 0.9)],
            [(0.9, peak + 0.1), (half * 0.24, peak)],
            [(half * 0.40, peak - 0.3), (shoulder, slope), (half, corner)],
            self._back(self.upper + 0.4, half),
        )
        lower = outline((-half, corner), self._edge(self.lower - 0.4, half), self._back(bottom, half))
        canvas.drawPath(lower, linear((0, self.lower), (0, bottom), (argb(light(lips, 0.20)), argb(shade(lips, 0.10)))))
        canvas.drawPath(upper, fill(shade(lips, 0.14)))
        shine = oval(
            -half * 0.10, self.lower + self.lower_lip * 0.45, half * (0.34 - 0.06 * self.rounded), self.lower_lip * 0.17
        )
        canvas.drawOval(shine, fill(light(lips, 0.85), 0.40 + 0.25 * self.rounded))
        hole = outline((-inner, corner), self._edge(self.upper, inner), self._back(self.lower, inner))
        if self.lower - self.upper > 0.2:
            self._draw_inside(canvas, hole)
        parted = min(1.0, (self.lower - self.upper) / 2.0)
        reach = half - (half - inner) * parted
        seam = outline((-reach, corner), self._edge(self.upper, reach), closed=False)
        canvas.drawPath(seam, stroke(mix(shade(lips, 0.75), INK, 0.35), 0.75 - 0.3 * parted, 0.9))

    def _draw_inside(self, canvas: skia.Canvas, hole: skia.Path) -> None:
        inner = self.inner
        canvas.drawPath(hole, fill(CAVITY))
        canvas.save()
        canvas.clipPath(hole, True)
        rise = 0.8 + 2.6 * self.opened + 1.8 * self.bared * self.opened
        canvas.drawOval(oval(0, self.lower + 3.2 - rise + 0.9, inner * 0.66, 3.6), fill(TONGUE))
        length = 1.1 * self.opened + self.bared * (2.4 + 1.4 * self.opened) + 0.8 * max(self.smile, 0.0) * self.opened
        if length > 0.1:
            side = inner * (0.90 - 0.12 * self.opened)
            end = min(self.corner, self.upper + 0.6 * length)
            control = (self.upper + length - 0.25 * end) / 0.75
            teeth = outline(
                (-side, -30),
                [(-side, end)],
                [(-side * 0.7, control), (side * 0.7, control), (side, end)],
                [(side, -30)],
            )
            canvas.drawPath(teeth, fill(TEETH))
        canvas.restore()

    def _draw_corners(self, canvas: skia.Canvas) -> None:
        """Creases beside the corners; deep folds up to the nose when smiling."""
        if self.identity.beard == "full beard":
            return
        skin = self.identity.skin.rgb
        strain = clamp(max(0.0, -self.smile) * 0.55 + max(0.0, self.half - 10.5) * 0.12, 0.15)
        for side in (-1, 1):
            x = side * (self.half + 0.9)
            crease = outline(
                (x - side * 0.4, self.corner - 1.3),
                [(x + side * 0.9, self.corner), (x - side * 0.2, self.corner + 1.4)],
                closed=False,
            )
            canvas.drawPath(crease, stroke(shade(skin, 0.6), 0.9, 0.65 * strain))
            if self.smile > 0.15:
                fold = outline(
                    (side * 8.2, -8.6),
                    [(side * (self.half + 1.6), -7.4), (side * (self.half + 2.4), self.corner - 0.8)],
                    closed=False,
                )
                canvas.drawPath(fold, stroke(shade(skin, 0.55), 0.9, 0.40 * self.smile))
