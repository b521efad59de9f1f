"""The whole picture, from the wall to the waving hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import skia
from numpy.typing import NDArray

from liveact_models.world.drawing.backdrop import draw_backdrop
from liveact_models.world.drawing.clothes import draw_garment
from liveact_models.world.drawing.extras import draw_beard, draw_earrings, draw_glasses, draw_hat, draw_moustache
from liveact_models.world.drawing.eyes import draw_brows, draw_eyes
from liveact_models.world.drawing.hair import HAIRSTYLES
from liveact_models.world.drawing.hand import draw_hand
from liveact_models.world.drawing.head import draw_ears, draw_face, draw_neck, draw_nose, face_outline, jaw_drop
from liveact_models.world.drawing.mouth import draw_mouth
from liveact_models.world.face import FaceState
from liveact_models.world.identity import Identity
from liveact_models.world.pose import CENTRE_X, CENTRE_Y, NECK_Y, Pose, frame_of


def paint_portrait(identity: Identity, state: FaceState, width: int, height: int) -> NDArray[np.uint8]:
    """The picture [height, width, 3]."""
    backdrop, garment, garment_top = _still(identity, width, height)
    pixels = backdrop.copy()
    surface = _surface(pixels)
    canvas = surface.getCanvas()
    scale, left, top = frame_of(width, height)
    canvas.translate(left, top)
    canvas.scale(scale, scale)
    pose = Pose(state)
    hair = HAIRSTYLES[identity.hair]
    drop = jaw_drop(state)

    _enter_head(canvas, pose)
    hair.draw_back(canvas, pose, identity)
    canvas.restore()
    draw_neck(canvas, pose, identity, drop)
    canvas.save()
    canvas.resetMatrix()
    canvas.drawImage(garment, 0, garment_top)
    canvas.restore()

    _enter_head(canvas, pose)
    face = face_outline(pose, identity, drop)
    draw_ears(canvas, pose, identity)
    hair.draw_locks(canvas, pose, identity)
    draw_earrings(canvas, pose, identity)
    draw_face(canvas, pose, identity, state, face)
    draw_beard(canvas, pose, identity, drop, face)
    draw_nose(canvas, pose, identity)
    draw_mouth(canvas, pose, identity, state)
    draw_moustache(canvas, pose, identity, state)
    draw_eyes(canvas, pose, identity, state)
    draw_brows(canvas, pose, identity, state)
    hair.draw_front(canvas, pose, identity)
    draw_glasses(canvas, pose, identity)
    draw_hat(canvas, pose, identity)
    canvas.restore()
    draw_hand(canvas, identity, state)
    surface.flushAndSubmit()
    picture = np.empty((height, width, 3), np.uint8)
    for channel in range(3):
        picture[..., channel] = pixels[..., channel]
    return picture


def _surface(pixels: NDArray[np.uint8]) -> skia.Surface:
    return skia.Surface(pixels, skia.kRGBA_8888_ColorType, skia.kPremul_AlphaType)


def _enter_head(canvas: skia.Canvas, pose: Pose) -> None:
    """Makes head coordinates the canvas's own until it is restored."""
    canvas.save()
    canvas.translate(CENTRE_X + pose.shift[0], CENTRE_Y + pose.shift[1] + NECK_Y)
    canvas.rotate(pose.roll * 57.29578)
    canvas.translate(0, -NECK_Y)


@lru_cache(maxsize=16)
def _still(identity: Identity, width: int, height: int) -> tuple[NDArray[np.uint8], skia.Image, int]:
    """What never moves, drawn once a person and size: the place, and the clothes from the row where they begin."""
    backdrop = _layer(draw_backdrop, identity, width, height)
    garment = _layer(draw_garment, identity, width, height)
    worn = np.flatnonzero(garment[..., 3].any(axis=1))
    top = int(worn[0]) if len(worn) else height - 1
    image = skia.Image.fromarray(garment[top:].copy(), skia.kRGBA_8888_ColorType, skia.kPremul_AlphaType)
    return backdrop, image, top


def _layer(
    draw_part: Callable[[skia.Canvas, Identity], None], identity: Identity, width: int, height: int
) -> NDArray[np.uint8]:
    """[height, width, 4], premultiplied."""
    pixels = np.zeros((height, width, 4), np.uint8)
    surface = _surface(pixels)
    canvas = surface.getCanvas()
    scale, left, top = frame_of(width, height)
    canvas.translate(left, top)
    canvas.scale(scale, scale)
    draw_part(canvas, identity)
    surface.flushAndSubmit()
    return pixels
