"""Where a step of the autoencoder's training looks: crops at any pixel, mouths first, and some whole pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from liveact_models.training.draws import rng
from liveact_models.training.picture_bank import FACE, MOUTH, PictureBank, Shots, Window
from liveact_models.training.recipe import Recipe, RecipeError
from liveact_models.training.workers import Workers

EYE_LEVEL = 0.42
"""How far down a face its eyes are."""
MIRRORED = 0.5


@dataclass(frozen=True)
class Crops:
    """Options of a recipe."""

    side: int = 64
    """Pixels, a multiple of 8."""
    frames: int = 21
    """Video frames, 1 + 4n."""
    whole: float = 0.15
    """Share of steps that see whole pictures, as many pixels of them."""
    mouth: float = 0.4
    """Shares of crops by what their middle is near; the rest is anywhere."""
    eyes: float = 0.2
    border: float = 0.2
    jitter: float = 16.0
    """Pixels by which a middle may be off, either way."""
    recoloured: float = 0.25
    """Share of samples whose colours change places."""


def check_crops(crops: Crops, bank: PictureBank) -> None:
    """Raises `RecipeError` naming the option that does not fit the pictures there are."""
    if crops.side % 8 or not 8 <= crops.side <= bank.size:
        raise RecipeError(f"options.crops.side is {crops.side}: accepted are multiples of 8 up to {bank.size}")
    if crops.frames % 4 != 1 or crops.frames > bank.frames:
        raise RecipeError(f"options.crops.frames is {crops.frames}: accepted are 1 + 4n up to {bank.frames}")


def draw_shots(bank: PictureBank, crops: Crops, recipe: Recipe, step: int, workers: Workers) -> Shots:
    """This worker's samples of a step, as the key (seed, step, sample) has them."""
    side, samples = draw_side(bank, crops, recipe, step, workers)
    windows, flips, colours = [], [], []
    for sample in samples:
        chance = rng(recipe.seed, step, sample)
        windows.append(draw_window(bank, crops, side, chance))
        flips.append(bool(chance.random() < MIRRORED))
        order = chance.permutation(3) if chance.random() < crops.recoloured else np.arange(3)
        colours.append(torch.from_numpy(order))
    shots = bank.shots(windows)
    device = shots.video.device
    return shots.changed(torch.tensor(flips, device=device), torch.stack(colours).to(device))


def draw_side(
    bank: PictureBank, crops: Crops, recipe: Recipe, step: int, workers: Workers
) -> tuple[int, Sequence[int]]:
    """The side of a step's windows, and this worker's samples: fewer where whole pictures are seen, as many pixels."""
    samples = workers.samples(recipe.batch)
    if rng(recipe.seed, step).random() >= crops.whole:
        return crops.side, samples
    return bank.size, samples[: max(1, len(samples) * crops.side**2 // bank.size**2)]


def draw_window(bank: PictureBank, crops: Crops, side: int, chance: np.random.Generator) -> Window:
    """A window of `side` pixels on something that the shares of `crops` ask for."""
    clip, start = int(chance.integers(len(bank))), int(chance.integers(bank.frames - crops.frames + 1))
    middle = _middle(bank, crops, clip, start + crops.frames // 2, chance) + chance.uniform(-1, 1, 2) * crops.jitter
    x, y = np.clip(np.round(middle - side / 2), 0, bank.size - side).astype(int)
    return Window(clip, int(x), int(y), side, start, crops.frames)


def _middle(bank: PictureBank, crops: Crops, clip: int, frame: int, chance: np.random.Generator) -> np.ndarray:
    """(x, y) in pixels of something worth looking at."""
    kind = chance.choice(4, p=(crops.mouth, crops.eyes, crops.border, 1 - crops.mouth - crops.eyes - crops.border))
    x0, y0, x1, y1 = bank.box(clip, frame, MOUTH if kind == 0 else FACE)
    if kind == 0:
        return np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    if kind == 1:
        return np.array([chance.uniform(x0, x1), y0 + EYE_LEVEL * (y1 - y0)])
    if kind == 2:
        angle = chance.uniform(0, 2 * np.pi)
        return np.array([x0 + x1 + (x1 - x0) * np.cos(angle), y0 + y1 + (y1 - y0) * np.sin(angle)]) / 2
    return chance.uniform(0, bank.size, 2)
