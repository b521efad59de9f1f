"""Who is seen: every choice that stays the same from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

Choice = TypeVar("Choice")


class Tint(NamedTuple):
    """A colour and the word a caption has for it."""

    name: str
    rgb: tuple[int, int, int]


SKINS = (
    Tint("porcelain", (252, 224, 205)),
    Tint("fair", (246, 208, 180)),
    Tint("peach", (240, 194, 160)),
    Tint("olive", (222, 176, 134)),
    Tint("tan", (203, 150, 108)),
    Tint("brown", (168, 113, 78)),
    Tint("dark brown", (131, 83, 57)),
    Tint("deep", (98, 62, 46)),
)
HAIR_COLOURS = (
    Tint("black", (38, 34, 44)),
    Tint("dark brown", (74, 48, 38)),
    Tint("brown", (117, 74, 48)),
    Tint("chestnut", (142, 72, 44)),
    Tint("red", (190, 82, 42)),
    Tint("blond", (226, 178, 98)),
    Tint("silver", (188, 192, 204)),
    Tint("pink", (226, 122, 158)),
    Tint("blue", (66, 104, 176)),
)
EYE_COLOURS = (
    Tint("brown", (110, 64, 34)),
    Tint("dark", (62, 40, 34)),
    Tint("hazel", (140, 104, 48)),
    Tint("green", (72, 134, 92)),
    Tint("blue", (60, 118, 182)),
    Tint("grey", (104, 124, 142)),
)
CLOTH_COLOURS = (
    Tint("red", (204, 66, 68)),
    Tint("orange", (232, 132, 62)),
    Tint("yellow", (240, 194, 78)),
    Tint("green", (70, 144, 106)),
    Tint("teal", (44, 140, 148)),
    Tint("blue", (62, 106, 184)),
    Tint("navy", (44, 58, 104)),
    Tint("purple", (122, 82, 160)),
    Tint("pink", (232, 138, 160)),
    Tint("white", (240, 238, 234)),
    Tint("grey", (126, 132, 146)),
    Tint("black", (52, 50, 60)),
)
BACKDROP_COLOURS = (
    Tint("blue", (142, 184, 220)),
    Tint("teal", (132, 198, 194)),
    Tint("green", (164, 204, 158)),
    Tint("yellow", (244, 218, 150)),
    Tint("orange", (242, 188, 146)),
    Tint("pink", (240, 188, 196)),
    Tint("violet", (190, 178, 222)),
    Tint("grey", (196, 202, 212)),
    Tint("beige", (228, 214, 194)),
    Tint("navy", (70, 88, 130)),
)
FRAME_COLOURS = (
    Tint("black", (40, 38, 46)),
    Tint("brown", (112, 66, 42)),
    Tint("red", (176, 50, 58)),
    Tint("gold", (196, 150, 70)),
)

WOMEN_HAIR = (
    "long straight",
    "long wavy",
    "bobbed",
    "tied-up",
    "ponytail",
    "curly",
    "afro",
    "pixie-cut",
    "fringed long",
)
MEN_HAIR = ("short", "side-parted", "swept-back", "short curly", "cropped", "no", "afro", "shoulder-length")
BEARDS = ("none", "stubble", "moustache", "goatee", "full beard")
GLASSES = ("none", "round", "square")
EARRINGS = ("none", "studs", "hoops")
HATS = ("none", "beanie", "beret", "cap", "headband")
GARMENTS = ("jumper", "turtleneck", "shirt", "hoodie", "jacket", "striped top", "dungarees")
BACKDROPS = ("wall", "glow", "lights", "window", "panelled wall", "stripes")

_HATTED = (
    *("long straight", "long wavy", "bobbed", "pixie-cut"),
    *("short", "side-parted", "cropped", "no", "shoulder-length"),
)
"""Hair that hats go with."""


@dataclass(frozen=True)
class Identity:
    """One person, their clothes and the place, as seen in every frame. Scales are around 1, the rest in 0..1 or -1..1."""

    person: str
    skin: Tint
    face_width: float
    jaw: float
    chin: float
    eye_colour: Tint
    eye_size: float
    eye_tilt: float
    eye_gap: float
    brow_weight: float
    brow_arch: float
    nose_size: float
    nose_width: float
    lip_colour: tuple[int, int, int]
    lip_fullness: float
    freckles: bool
    blush: float
    hair: str
    hair_colour: Tint
    beard: str
    glasses: str
    frame_colour: Tint
    earrings: str
    hat: str
    hat_colour: Tint
    garment: str
    garment_colour: Tint
    second_colour: Tint
    backdrop: str
    backdrop_colour: Tint

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Identity:
        """A person at random; the same generator state gives the same person."""
        woman = rng.random() < 0.5
        skin = _pick(rng, SKINS)
        hair = _pick(rng, WOMEN_HAIR if woman else MEN_HAIR)
        garment_colour = _pick(rng, CLOTH_COLOURS)
        hat = _pick(rng, HATS[1:]) if hair in _HATTED and rng.random() < 0.22 else "none"
        natural = HAIR_COLOURS[:3] if skin in SKINS[5:] else HAIR_COLOURS[:7]
        return cls(
            person="woman" if woman else "man",
            skin=skin,
            face_width=float(rng.uniform(0.94, 1.01) if woman else rng.uniform(0.95, 1.03)),
            jaw=float(rng.uniform(0.0, 0.45) if woman else rng.uniform(0.35, 1.0)),
            chin=float(rng.uniform(-1, 1)),
            eye_colour=_pick(rng, EYE_COLOURS[:3] if skin in SKINS[4:] else EYE_COLOURS),
            eye_size=float(rng.uniform(1.0, 1.14) if woman else rng.uniform(0.92, 1.05)),
            eye_tilt=float(rng.uniform(-0.5, 1.0)),
            eye_gap=float(rng.uniform(-1, 1)),
            brow_weight=float(rng.uniform(0.7, 1.0) if woman else rng.uniform(1.1, 1.5)),
            brow_arch=float(rng.uniform(0.3, 1.0) if woman else rng.uniform(0.0, 0.6)),
            nose_size=float(rng.uniform(0.88, 1.05) if woman else rng.uniform(1.02, 1.18)),
            nose_width=float(rng.uniform(0.9, 1.05) if woman else rng.uniform(1.0, 1.18)),
            lip_colour=_lip_colour(rng, skin, painted=woman and rng.random() < 0.5),
            lip_fullness=float(rng.uniform(0.95, 1.2) if woman else rng.uniform(0.8, 1.0)),
            freckles=bool(rng.random() < 0.15),
            blush=float(rng.uniform(0.3, 0.9) if woman else rng.uniform(0.1, 0.5)),
            hair=hair,
            hair_colour=_pick(rng, HAIR_COLOURS[7:] if rng.random() < 0.06 else natural),
            beard="none" if woman or rng.random() < 0.45 else _pick(rng, BEARDS[1:]),
            glasses=_pick(rng, GLASSES[1:]) if rng.random() < 0.26 else "none",
            frame_colour=_pick(rng, FRAME_COLOURS),
            earrings=_pick(rng, EARRINGS) if woman else "none",
            hat=hat,
            hat_colour=_pick(rng, CLOTH_COLOURS),
            garment=_pick(rng, GARMENTS),
            garment_colour=garment_colour,
            second_colour=_pick(rng, tuple(tint for tint in CLOTH_COLOURS if tint != garment_colour)),
            backdrop=_pick(rng, BACKDROPS),
            backdrop_colour=_pick(rng, BACKDROP_COLOURS),
        )

    def describe(self) -> str:
        """One English sentence part that names what is seen: "a woman with long wavy red hair and round glasses, ..."."""
        traits = ["no hair" if self.hair == "no" else f"{self.hair} {self.hair_colour.name} hair"]
        if self.beard != "none":
            traits.append("stubble" if self.beard == "stubble" else f"a {self.beard}")
        if self.glasses != "none":
            traits.append(f"{self.glasses} glasses")
        if self.earrings != "none":
            traits.append("earrings" if self.earrings == "studs" else "hoop earrings")
        if self.hat != "none":
            traits.append(f"a {self.hat_colour.name} {self.hat}")
        listed = traits[0] if len(traits) == 1 else f"{', '.join(traits[:-1])} and {traits[-1]}"
        clothes = f"{self.garment_colour.name} {self.garment}"
        if self.garment != "dungarees":
            clothes = f"{_article(clothes)} {clothes}"
        return f"a {self.person} with {listed}, in {clothes}, before {_PLACES[self.backdrop].format(self.backdrop_colour.name)}"


_PLACES = {
    "wall": "a {} wall",
    "glow": "a soft {} background",
    "lights": "blurred lights on {}",
    "window": "a {} wall with a window",
    "panelled wall": "a panelled {} wall",
    "stripes": "a striped {} wall",
}


def _article(words: str) -> str:
    return "an" if words[0] in "aeiou" else "a"


def _pick(rng: np.random.Generator, choices: tuple[Choice, ...]) -> Choice:
    return choices[int(rng.integers(len(choices)))]


def _lip_colour(rng: np.random.Generator, skin: Tint, painted: bool) -> tuple[int, int, int]:
    rose = np.array(((196, 60, 78), (176, 54, 92), (214, 92, 92))[int(rng.integers(3))] if painted else (190, 92, 88))
    blended = rose * (0.85 if painted else 0.55) + np.array(skin.rgb) * (0.1 if painted else 0.38)
    red, green, blue = (int(value) for value in blended)
    return red, green, blue
