"""How well pictures survive their latents: what training minimises, and what is reported."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from liveact_models.training.picture_bank import Shots
from liveact_models.vae import Vae, to_rgb

_PEAK = 4.0
"""Square of the range [-1, 1] of a pixel."""
_SHOWN = 3
"""Frames of each clip in a comparison."""


@dataclass(frozen=True)
class Losses:
    """Options of a recipe: weights of what is minimised beside the mean absolute error."""

    square: float = 2.0
    """Of the mean square error."""
    gradient: float = 0.5
    """Of the absolute error of differences between neighbouring pixels."""
    motion: float = 0.25
    """Of the absolute error of differences between neighbouring frames."""
    mouth: float = 3.0
    """What a pixel of the mouth counts more than another."""
    eyes: float = 1.0


def reconstruction_losses(video: Tensor, shots: Shots, losses: Losses) -> dict[str, Tensor]:
    """The weighted parts of the loss of video [B, 3, T, H, W] that should be the shots'; their sum is minimised."""
    weight = 1 + losses.mouth * shots.mouth + losses.eyes * shots.eyes
    weight = weight / weight.mean()
    error = video.float() - shots.video
    # The error is linear in both pictures: its gradient is the difference of theirs.
    steep, moved = (
        torch.stack([(difference.abs() * cut).mean() for difference, cut in _differences(error, weight, dims)]).sum()
        for dims in ((-1, -2), (2,))
    )
    return {
        "absolute": (error.abs() * weight).mean(),
        "square": losses.square * (error.square() * weight).mean(),
        "gradient": losses.gradient * steep,
        "motion": losses.motion * moved,
    }


@torch.no_grad()
def measures(video: Tensor, shots: Shots) -> dict[str, float]:
    """Of video [B, 3, T, H, W] against the shots', whole and within the mouth's box (nothing of it where none is seen):

    psnr, psnr_mouth: peak signal to noise in dB, of [0, 1] pixels.
    sharpness, sharpness_mouth: sum of absolute differences between neighbouring pixels, as a share of the truth's.
    """
    video, truth = video.float().clamp(-1, 1), shots.video
    found: dict[str, float] = {}
    everywhere = torch.ones_like(truth[:, :1])
    for name, mask in (("", everywhere), ("_mouth", shots.mouth)):
        if not mask.any():
            continue
        error = ((video - truth).square() * mask).sum() / (mask.sum() * 3)
        found[f"psnr{name}"] = float(10 * torch.log10(_PEAK / error.clamp(min=1e-9)))
        made, true = (sum((d.abs() * cut).sum() for d, cut in _differences(x, mask, (-1, -2))) for x in (video, truth))
        found[f"sharpness{name}"] = float(made / true)
    return found


@torch.no_grad()
def reconstruct(vae: Vae, shots: Shots) -> Tensor:
    """The shots' video through latents and back [B, 3, T, H, W], by the code that serves."""
    return torch.stack([vae.decode(vae.encode(clip)) for clip in shots.video])


def reconstruction(vae: Vae, clips: Shots) -> dict[str, float]:
    """`measures` of clips through latents and back, by the code that serves."""
    return measures(reconstruct(vae, clips), clips)


def comparison(video: Tensor, truth: Tensor) -> NDArray[np.uint8]:
    """A picture [H, W, 3] of some frames of each clip [B, 3, T, H, W]: what is true above what was made."""
    chosen = np.linspace(0, truth.shape[2] - 1, _SHOWN).round().astype(int)
    rows = []
    for made, true in zip(video, truth, strict=True):
        rows += [np.concatenate(list(to_rgb(clip[:, chosen]).cpu().numpy()), axis=1) for clip in (true, made)]
    return np.concatenate(rows)


def _differences(x: Tensor, weight: Tensor, dims: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    """Differences of neighbours along each dimension, and the weight where the first of them stands."""
    return [(x.diff(dim=dim), weight.narrow(dim, 0, x.shape[dim] - 1)) for dim in dims]
