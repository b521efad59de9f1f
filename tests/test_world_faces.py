"""The painted person: every value of a face state shows in the pixels, and nothing else does."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("skia", reason="needs the extra train")

from liveact_models.world.draw import draw, face_box, mouth_box
from liveact_models.world.drawing.hair import HAIRSTYLES
from liveact_models.world.drawing.mouth import CAVITY
from liveact_models.world.face import STATE, FaceState
from liveact_models.world.identity import (
    BACKDROP_COLOURS,
    BACKDROPS,
    CLOTH_COLOURS,
    EYE_COLOURS,
    GARMENTS,
    HAIR_COLOURS,
    HATS,
    MEN_HAIR,
    SKINS,
    WOMEN_HAIR,
    Identity,
    Tint,
)
from liveact_models.world.motion import EXPRESSIONS
from liveact_models.world.sheet import sheet

SIZE = 128
Picture = NDArray[np.uint8]


def person(seed: int) -> Identity:
    return Identity.sample(np.random.default_rng(seed))


def bare(seed: int) -> Identity:
    """Without what could hide eyes or lips or have their colours."""
    plain = replace(
        person(seed), glasses="none", beard="none", hat="none", freckles=False, skin=SKINS[3], hair="cropped"
    )
    plain = replace(plain, hair_colour=HAIR_COLOURS[5], lip_colour=(190, 110, 100), eye_colour=EYE_COLOURS[4])
    return replace(
        plain, garment="jumper", garment_colour=CLOTH_COLOURS[3], backdrop="wall", backdrop_colour=BACKDROP_COLOURS[2]
    )


def crop(identity: Identity, state: FaceState, size: int = SIZE) -> Picture:
    x0, y0, x1, y1 = (round(side * size) for side in mouth_box(identity, state))
    return draw(identity, state, size, size)[y0:y1, x0:x1]


def changed(first: Picture, second: Picture) -> float:
    """Mean absolute difference in levels."""
    return float(np.abs(first.astype(int) - second).mean())


def rising(values: list[float], least: float) -> bool:
    return all(later - earlier >= least for earlier, later in pairwise(values))


def cavity(mouth: Picture) -> float:
    """Pixels as dark red as the inside of a mouth."""
    distance = np.abs(mouth.astype(int) - CAVITY).sum(axis=-1)
    return float((distance < 40).sum())


def teeth(mouth: Picture) -> float:
    return float((mouth.min(axis=-1) > 225).sum())


def lip_width(identity: Identity, state: FaceState) -> float:
    """Columns of the mouth's crop that hold lips, at 512 pixels a picture."""
    painted = replace(identity, lip_colour=(0, 0, 255))
    lips = crop(painted, state, 512).astype(int)
    blue = (lips[..., 2] - lips[..., 0] > 60).any(axis=0)
    return float(blue.sum())


# ---- purity -------------------------------------------------------------------------------------------------------------------


def test_same_seed_gives_the_same_bytes_and_another_seed_another_person() -> None:
    state = FaceState(yaw=0.3, open=0.4, hand=0.7)
    first, again, other = (draw(person(seed), state, SIZE, SIZE) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert changed(first, other) > 10
    assert person(1).describe() != person(2).describe()


def test_drawing_others_in_between_changes_nothing() -> None:
    first = draw(person(3), FaceState(), SIZE, SIZE)
    for seed in range(4, 30):
        draw(person(seed), FaceState(), 32, 32)
    assert draw(person(3), FaceState(), SIZE, SIZE).tobytes() == first.tobytes()


def test_a_returned_picture_is_the_callers_own() -> None:
    first = draw(person(3), FaceState(), 64, 64)
    kept = first.copy()
    first[:] = 0
    assert np.array_equal(draw(person(3), FaceState(), 64, 64), kept)


@pytest.mark.parametrize(("width", "height"), [(128, 128), (96, 160), (200, 112), (33, 17)])
def test_any_size_is_filled(width: int, height: int) -> None:
    picture = draw(person(0), FaceState(), width, height)
    assert picture.shape == (height, width, 3)
    assert picture.dtype == np.uint8
    assert picture[0, 0].any()
    assert picture[-1, -1].any()


def test_sizes_show_the_same_picture() -> None:
    large = draw(person(5), FaceState(), 256, 256).astype(float)
    small = draw(person(5), FaceState(), 128, 128)
    halved = large.reshape(128, 2, 128, 2, 3).mean(axis=(1, 3))
    assert np.abs(halved - small).mean() < 2.0


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="0 x 10"):
        draw(person(0), FaceState(), 0, 10)
    with pytest.raises(ValueError, match="yaw"):
        draw(person(0), FaceState(yaw=float("nan")), 10, 10)
    with pytest.raises(ValueError, match="2 values"):
        FaceState.from_row([0.0, 1.0])


def test_values_beyond_the_range_are_drawn_as_its_end() -> None:
    beyond = replace(FaceState(), open=3.0, yaw=-2.0)
    assert np.array_equal(draw(person(0), beyond, 64, 64), draw(person(0), FaceState(open=1.0, yaw=-1.0), 64, 64))


# ---- the mouth ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_cavity_grows_with_open(seed: int) -> None:
    person = bare(seed)
    areas = [cavity(crop(person, FaceState(open=value))) for value in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]
    assert areas[0] < 10
    assert rising(areas, least=8)


@pytest.mark.parametrize("seed", range(4))
def test_stretching_widens_and_rounding_narrows_the_lips(seed: int) -> None:
    person = bare(seed)
    for opened in (0.0, 0.5):
        widths = [lip_width(person, FaceState(width=value, open=opened)) for value in (0.0, 0.25, 0.5, 0.75, 1.0)]
        assert rising(widths, least=8)
        widths = [lip_width(person, FaceState(round=value, open=opened)) for value in (1.0, 0.75, 0.5, 0.25, 0.0)]
        assert rising(widths, least=8)
    assert 0.28 <= lip_width(person, FaceState(width=1.0)) / 512 <= 0.38


@pytest.mark.parametrize("opened", [0.0, 0.5])
def test_teeth_are_bared(opened: float) -> None:
    person = bare(0)
    areas = [teeth(crop(person, FaceState(teeth=value, open=opened), 512)) for value in (0.0, 0.4, 0.7, 1.0)]
    assert rising(areas, least=60)


@pytest.mark.parametrize("name", STATE)
def test_every_value_shows_in_the_picture(name: str) -> None:
    base = FaceState(hand=1.0) if name == "hand_swing" else FaceState()
    rest, moved = (draw(bare(6), replace(base, **{name: value}), SIZE, SIZE) for value in (getattr(base, name), 0.25))
    assert changed(rest, moved) > 0.05


def test_the_mouth_moves_only_mouth_and_jaw() -> None:
    person = bare(2)
    rest, spoken = (draw(person, FaceState(open=value), SIZE, SIZE) for value in (0.0, 1.0))
    nose = int(0.55 * SIZE)
    assert np.abs(rest[:nose].astype(int) - spoken[:nose]).max() <= 3
    assert changed(rest[nose:], spoken[nose:]) > 3


# ---- eyes, expressions, pose, hand --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_a_blink_hides_the_iris(seed: int) -> None:
    eyes = replace(bare(seed), eye_colour=Tint("test", (0, 255, 0)), backdrop_colour=BACKDROP_COLOURS[5])

    def iris(blink: float) -> int:
        picture = draw(eyes, FaceState(blink=blink), 256, 256).astype(int)[100:140]
        return int((picture[..., 1] - picture[..., 0] > 60).sum())

    areas = [iris(blink) for blink in (1.0, 0.6, 0.3, 0.0)]
    assert areas[0] == 0
    assert areas[1] < areas[2] < areas[3]
    assert areas[3] > 150


def test_expressions_differ_clearly_from_each_other() -> None:
    for seed in range(4):
        faces = {name: draw(bare(seed), FaceState(**values), SIZE, SIZE) for name, values in EXPRESSIONS.items()}
        pairs = [(a, b) for a in faces for b in faces if a < b]
        closest = min(changed(faces[a], faces[b]) for a, b in pairs)
        assert closest > 0.5


def test_boxes_hold_what_they_name_and_follow_the_head() -> None:
    person = bare(1)
    for state in (
        FaceState(),
        FaceState(yaw=-1),
        FaceState(yaw=1, pitch=1),
        FaceState(roll=1, shift_x=1),
        FaceState(pitch=-1),
    ):
        picture = draw(person, replace(state, open=1.0, width=1.0), 256, 256)
        rows, columns = np.nonzero(np.abs(picture.astype(int) - CAVITY).sum(axis=-1) < 40)
        x0, y0, x1, y1 = (side * 256 for side in mouth_box(person, state))
        inside = (columns >= x0) & (columns <= x1) & (rows >= y0) & (rows <= y1)
        assert inside.sum() > 300
        assert inside.all()
        face = face_box(person, state)
        assert face[0] < mouth_box(person, state)[0]
        assert face[2] > mouth_box(person, state)[2]
    left, right = (mouth_box(person, FaceState(yaw=yaw))[0] for yaw in (-1.0, 1.0))
    assert right - left > 0.1


def test_boxes_of_wide_pictures_are_fractions_of_their_own_sides() -> None:
    x0, y0, x1, y1 = mouth_box(person(0), FaceState(), 200, 100)
    square = mouth_box(person(0), FaceState())
    assert (x1 - x0) == pytest.approx((square[2] - square[0]) / 2)
    assert (y0, y1) == pytest.approx((square[1], square[3]))
    assert (x0 + x1) / 2 == pytest.approx(0.5)


def test_shoulders_stay_when_the_head_moves() -> None:
    person = replace(bare(0), hair="cropped", garment="jumper")
    rest, moved = (draw(person, FaceState(yaw=v, pitch=v, roll=v, shift_x=v), SIZE, SIZE) for v in (0.0, 1.0))
    assert np.array_equal(rest[-6:, :40], moved[-6:, :40])
    assert changed(rest, moved) > 5


def test_a_hand_comes_up_in_the_lower_right_corner() -> None:
    person = bare(0)
    rest = draw(person, FaceState(), SIZE, SIZE).astype(int)
    heights = []
    for up in (0.3, 0.6, 1.0):
        rows, columns = np.nonzero(np.abs(draw(person, FaceState(hand=up), SIZE, SIZE) - rest).sum(-1) > 30)
        assert columns.min() > 0.6 * SIZE
        heights.append(float(SIZE - rows.min()))
    assert rising(heights, least=8)
    assert 0.3 * SIZE < heights[-1] < 0.6 * SIZE


# ---- identities ---------------------------------------------------------------------------------------------------------------


def test_every_choice_of_hair_hat_garment_and_place_looks_its_own() -> None:
    base = bare(8)
    assert set(HAIRSTYLES) == {*WOMEN_HAIR, *MEN_HAIR}
    for field, choices in {"hair": tuple(HAIRSTYLES), "hat": HATS, "garment": GARMENTS, "backdrop": BACKDROPS}.items():
        pictures = [draw(replace(base, **{field: choice}), FaceState(), 64, 64) for choice in choices]
        for index, picture in enumerate(pictures):
            assert all(changed(picture, other) > 0.2 for other in pictures[:index]), (field, choices[index])


def test_descriptions_name_what_is_seen() -> None:
    tinted = replace(
        person(0), person="woman", hair="long wavy", beard="none", hat="none", earrings="none", glasses="round"
    )
    tinted = replace(tinted, garment="jumper", backdrop="wall")
    hair, clothes, place = tinted.hair_colour.name, tinted.garment_colour.name, tinted.backdrop_colour.name
    article = "an" if clothes[0] in "aeiou" else "a"
    expected = (
        f"a woman with long wavy {hair} hair and round glasses, in {article} {clothes} jumper, before a {place} wall"
    )
    assert tinted.describe() == expected


def test_people_vary() -> None:
    people = [person(seed) for seed in range(200)]
    assert len({one.describe() for one in people}) > 190
    assert {one.hair for one in people} == set(HAIRSTYLES)
    assert all(one.beard == "none" for one in people if one.person == "woman")


def test_a_sheet_holds_a_picture_for_every_person_and_state(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "sheet.png"
    sheet(path, seed=1, people=2, size=48, states={"rest": FaceState(), "open": FaceState(open=1.0)})
    picture = np.asarray(Image.open(path))
    assert picture.shape[1] == 96
    expected = draw(Identity.sample(np.random.default_rng(1)), FaceState(open=1.0), 48, 48)
    assert np.array_equal(picture[18:66, 48:], expected)
