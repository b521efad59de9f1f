"""How the judge is made: rendered frames of people who never occur again, drawn, blurred and learnt in minutes on one core."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from liveact_models.evaluate.judge import (
    ACTION_POSE,
    LOOK_SIDE,
    POSE,
    SIDE,
    ActionNet,
    Judge,
    action_tracks,
    mouth_crops,
)
from liveact_models.timeline import BLOCK_FRAMES
from liveact_models.world.identity import Identity
from liveact_models.world.motion import ACTIONS, EMOTIONS, Motion, perform
from liveact_models.world.mouth import MOUTH, SILENCE, SYMBOLS, Phone, mouth_track

FPS = 20
SEED_TRAIN, SEED_UNSEEN = 71, 72
"""Of the people, who are none of those of `world.clip`."""
_LENGTH = 64
_SETTLED = 16
"""Frames after which an emotion stands in the face."""
_PATCH = 72
"""Pixels kept around the mouth, so that the crop may be moved and scaled."""

Report = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class JudgeRecipe:
    """Sizes of the training; the defaults made the shipped file."""

    people: int = 1500
    frames_each: int = 8
    batch_people: int = 48
    """Two frames of each make a batch, so that identity can be told from everything else."""
    steps: int = 1200
    action_tracks: int = 4000
    action_steps: int = 600
    lr: float = 2e-3


@dataclass(frozen=True)
class Examples:
    """N frames and their truth; the `frames_each` of one person stand together."""

    looks: NDArray[np.uint8]
    """[N, 64, 64, 3]"""
    patches: NDArray[np.uint8]
    """[N, 72, 72, 3] around the mouth."""
    inside: NDArray[np.float32]
    """[N, 2] the mouth's centre (x, y) in pixels of the patch."""
    place: NDArray[np.float32]
    """[N, 2] the same in fractions of the picture."""
    mouth: NDArray[np.float32]
    pose: NDArray[np.float32]
    emotion: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.looks)


def performance(rng: np.random.Generator, frames: int, emotion: int, action: int) -> tuple[Motion, NDArray[np.float32]]:
    """Somebody says phonemes in no order while feeling and doing one thing: their motion and mouth [frames, 4]."""
    mouth = mouth_track(list(_babble(rng, frames / FPS)), frames, FPS)
    loud = np.clip(0.25 + 0.75 * mouth[:, 0] + 0.1 * rng.standard_normal(frames), 0, 1)
    energy = np.where(mouth[:, 0] > 0.03, loud, 0).astype(np.float32)
    motion = perform(rng, mouth, energy, np.full(frames, emotion), np.full(frames, action))
    return motion, mouth


def _babble(rng: np.random.Generator, seconds: float) -> Iterator[Phone]:
    now = 0.0
    while now < seconds:
        silent = rng.random() < 0.06
        lasts = rng.uniform(0.2, 0.7) if silent else rng.uniform(0.04, 0.18)
        yield Phone(SILENCE if silent else str(rng.choice(SYMBOLS)), now, now + lasts)
        now += lasts


def draw_examples(people: int, frames_each: int, seed: int, report: Report = lambda *_: None) -> Examples:
    """Frames of people who babble, with every emotion and action equally often."""
    from liveact_models.world.draw import draw, mouth_box

    rows: list[tuple[NDArray, ...]] = []
    for person in range(people):
        rng = np.random.default_rng([seed, person])
        identity = Identity.sample(rng)
        for emotion in rng.integers(len(EMOTIONS), size=2):
            motion, _ = performance(rng, _LENGTH, int(emotion), int(rng.integers(len(ACTIONS))))
            for at in rng.choice(np.arange(_SETTLED, _LENGTH), frames_each // 2, replace=False):
                state = motion.state(int(at))
                picture = draw(identity, state, SIDE, SIDE)
                x0, y0, x1, y1 = mouth_box(identity, state)
                place = np.array(((x0 + x1) / 2, (y0 + y1) / 2), np.float32)
                values = (np.array([getattr(state, name) for name in names], np.float32) for names in (MOUTH, POSE))
                rows.append((_halved(picture), *_patch(picture, place), place, *values, emotion))
        report("drawing frames", person + 1, people)
    return Examples(*(np.stack(column) for column in zip(*rows, strict=True)))


def _halved(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    half = SIDE // LOOK_SIDE
    return picture.reshape(LOOK_SIDE, half, LOOK_SIDE, half, 3).mean(axis=(1, 3)).round().astype(np.uint8)


def _patch(picture: NDArray[np.uint8], place: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Pixels around the mouth, the picture's edge held, and where its centre lies in them."""
    corner = np.round(place * SIDE - _PATCH / 2).astype(int)
    rows, columns = (np.clip(np.arange(start, start + _PATCH), 0, SIDE - 1) for start in (corner[1], corner[0]))
    return picture[rows][:, columns], (place * SIDE - corner).astype(np.float32)


def train_judge(recipe: JudgeRecipe, seed: int = SEED_TRAIN, report: Report = lambda *_: None) -> Judge:
    """Train all three networks from nothing. The same recipe and seed give the same judge on the same machine."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        judge = Judge()
    examples = draw_examples(recipe.people, recipe.frames_each, seed, report)
    _train_sight(judge, examples, recipe, np.random.default_rng([seed, 1]), report)
    _train_actions(judge.action, recipe, seed, report)
    return judge.eval().requires_grad_(False)


def _train_sight(
    judge: Judge, examples: Examples, recipe: JudgeRecipe, rng: np.random.Generator, report: Report
) -> None:
    parameters = [*judge.mouth.parameters(), *judge.look.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=recipe.steps, pct_start=0.1)
    judge.train()
    for step in range(recipe.steps):
        people = rng.choice(recipe.people, recipe.batch_people, replace=False)
        within = np.argsort(rng.random((len(people), recipe.frames_each)), axis=1)[:, :2]
        rows = (people[:, None] * recipe.frames_each + within).reshape(-1)
        loss = _loss(judge, examples, rows, rng)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        report("learning to see", step + 1, recipe.steps)


def _loss(judge: Judge, examples: Examples, rows: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
    """Of frames [2 * people]; two of one person follow each other."""
    count = len(rows)
    looks = _degraded(_tensor(examples.looks[rows]), rng)
    patches = _degraded(_tensor(examples.patches[rows]), rng)
    missed = rng.normal(0, 1.5, (count, 2)).clip(-4, 4)
    centre = torch.from_numpy(((examples.inside[rows] + missed) / _PATCH).astype(np.float32))
    # `mouth_crops` counts its reach in pixels of the whole picture, of which the patch is a part.
    scale = torch.from_numpy(rng.uniform(0.93, 1.07, count).astype(np.float32)) * (SIDE / _PATCH)
    crops = mouth_crops(patches, centre, scale)
    with torch.autocast("cpu", torch.bfloat16):
        looked: tuple[Tensor, ...] = judge.look(looks)
        mouth = judge.mouth(crops).float()
    emotion, pose, place, identity = (part.float() for part in looked)
    return (
        20 * functional.mse_loss(mouth, torch.from_numpy(examples.mouth[rows]))
        + 4 * functional.mse_loss(pose, torch.from_numpy(examples.pose[rows]))
        + 400 * functional.mse_loss(place, torch.from_numpy(examples.place[rows]))
        + functional.cross_entropy(emotion, torch.from_numpy(examples.emotion[rows]))
        + 0.5 * _same_person(identity)
    )


def _same_person(identity: Tensor) -> Tensor:
    """Contrastive loss (NT-Xent, temperature 0.1) of unit vectors [2 * people, D], partners side by side."""
    likeness = identity @ identity.T / 0.1
    likeness.fill_diagonal_(float("-inf"))
    return functional.cross_entropy(likeness, torch.arange(len(identity)) ^ 1)


def _tensor(pictures: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def _degraded(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """What a decoder may do to a picture: blur, noise, a tint. [B, 3, H, W]"""

    def draws(low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (len(pictures), *shape)).astype(np.float32))

    # Twice the binomial of three pixels, in part: up to a deviation of one pixel, and for a third of the pictures none.
    amount = draws(-0.125, 0.25, 1, 1, 1).clamp(min=0)
    for dim in (2, 2, 3, 3):
        pictures = _blurred(pictures, amount, dim)
    noise = torch.from_numpy(rng.standard_normal(pictures[0].numel() * 2, np.float32))
    shifts = rng.integers(0, pictures[0].numel(), len(pictures))
    grain = torch.stack([noise[shift : shift + pictures[0].numel()] for shift in shifts]).view_as(pictures)
    pictures = pictures.addcmul(grain, draws(0, 0.06, 1, 1, 1))
    return pictures * draws(0.92, 1.08, 3, 1, 1) + draws(-0.06, 0.06, 3, 1, 1)


def _blurred(pictures: Tensor, amount: Tensor, dim: int) -> Tensor:
    """Along one axis: every pixel gives `amount` [B, 1, 1, 1] of itself to either neighbour; the ends keep theirs."""
    step = pictures.diff(dim=dim) * amount
    made = pictures.clone()
    made.narrow(dim, 0, made.shape[dim] - 1).add_(step)
    made.narrow(dim, 1, made.shape[dim] - 1).sub_(step)
    return made


def _action_windows(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """True pose tracks [N, 4, 32] of performances, each action equally often, and the action of each."""
    rng = np.random.default_rng([seed, 2])
    tracks, labels = [], []
    for number in range(count):
        action = number % len(ACTIONS)
        motion, _ = performance(rng, _LENGTH, int(rng.integers(len(EMOTIONS))), action)
        states = [motion.state(at) for at in range(_LENGTH)]
        pose = np.array([[getattr(state, name) for name in POSE] for state in states], np.float32)
        start = int(rng.integers(0, _LENGTH - BLOCK_FRAMES))
        tracks.append(action_tracks(pose)[start : start + BLOCK_FRAMES].T)
        labels.append(action)
    return np.stack(tracks), np.array(labels, np.int64)


def _train_actions(net: ActionNet, recipe: JudgeRecipe, seed: int, report: Report) -> None:
    """On true tracks, made as uncertain and as timid as a judge may read them from a generated face."""
    tracks, labels = _action_windows(recipe.action_tracks, seed)
    rng = np.random.default_rng([seed, 3])
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=recipe.action_steps)
    net.train()
    for step in range(recipe.action_steps):
        rows = rng.integers(len(tracks), size=128)
        shape = (len(rows), len(ACTION_POSE), 1)
        heard = tracks[rows] * rng.uniform(0.7, 1.1, shape) + rng.normal(0, 0.1, shape)
        heard += rng.normal(0, 1, (*shape[:2], BLOCK_FRAMES)) * rng.uniform(0.02, 0.12, (len(rows), 1, 1))
        loss = functional.cross_entropy(net(torch.from_numpy(heard.astype(np.float32))), torch.from_numpy(labels[rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        report("learning actions", step + 1, recipe.action_steps)
