"""The stage `decoder`: the decoder once more, against a discriminator, for pictures as sharp as the truth.

The encoder is frozen, so that latents stay what the transformer knows. The decoder sees true latents, and those that the
transformer makes where it is unsure, each beside the picture that was meant (`liveact_models.training.predictions`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from liveact_models.compiling import compiled
from liveact_models.training.autoencoder import OUTER, WATCHED, tiny_vae_config
from liveact_models.training.crops import Crops, check_crops, draw_side, draw_window
from liveact_models.training.draws import rng
from liveact_models.training.loop import Stage
from liveact_models.training.optim import optimizers_for
from liveact_models.training.picture_bank import Shots, Window
from liveact_models.training.prediction_bank import PredictionBank, on_the_grid
from liveact_models.training.recipe import Recipe
from liveact_models.training.reconstruction import Losses, comparison, measures, reconstruction_losses
from liveact_models.training.run_folder import RunFolder
from liveact_models.training.workers import Workers
from liveact_models.vae import TinyVae

_FOLD = 2
"""Side of the pixel patch the discriminator begins with."""


@dataclass(frozen=True)
class DecoderOptions:
    """Options of the recipe."""

    crops: Crops = field(default_factory=Crops)
    """Nothing is mirrored or recoloured here: the latents could not follow."""
    losses: Losses = field(default_factory=Losses)
    adversarial: float = 0.8
    """Norm of the discriminator's gradient on the pixels, as a share of the reconstruction's (VQGAN, Esser et al., 2021)."""
    features: float = 0.5
    """Weight of the difference between what the discriminator sees in both."""
    begin: int = 100
    """Steps in which the discriminator learns before it is listened to."""
    judged: int = 6
    """Pairs of frames of each sample that the discriminator judges."""
    predicted: float = 0.7
    """Share of samples whose latents are the transformer's."""
    channels: tuple[int, ...] = (48, 64, 96)
    """Of the discriminator; each level has half the side of the one before."""
    discriminator_lr: float = 1e-3


class DecoderStage(Stage):
    """Fine-tunes the decoder of the product `vae`, and writes that product again. `recipe.batch` counts crops."""

    def __init__(self, recipe: Recipe, run: RunFolder, device: torch.device) -> None:
        super().__init__(recipe, run, device)
        self.options = options = recipe.read_options(DecoderOptions)
        self.bank = PredictionBank(run.predictions).to(device)
        check_crops(options.crops, self.bank.pictures)
        self.vae = TinyVae(tiny_vae_config(recipe)).to(device)
        self.vae.load_state_dict(run.load_product("vae"))
        self.vae.encoder.requires_grad_(False)
        self.discriminator = Discriminator(options.channels).to(device)
        self.modules = {"decoder": self.vae.decoder, "discriminator": self.discriminator}
        inner = [name.removeprefix("decoder.") for name in OUTER]
        made = optimizers_for(
            self.vae.decoder,
            recipe.lr,
            recipe.weight_decay,
            adamw=inner,
            adamw_lr=recipe.adamw_lr,
            prefix="decoder_",
        )
        judging = torch.optim.AdamW(self.discriminator.parameters(), options.discriminator_lr, (0.5, 0.95), fused=True)
        self.made = tuple(made)
        self.optimizers = {**made, "discriminator": judging}
        self._decode = compiled(self.vae.decode_clips, recipe.compile)

    def train_step(self, step: int, workers: Workers) -> dict[str, float]:
        latents, shots = self._draw(step, workers)
        with torch.autocast(self.device.type, torch.bfloat16):
            video = self._decode(latents)
        first = rng(self.recipe.seed, step).choice(video.shape[2] - 1, self.options.judged, replace=False)
        # The losses meet at the pixels, where they are weighed; the decoder is gone through once, with their sum.
        pixels = video.detach().requires_grad_(True)
        true, made = (pairs(clips, first) for clips in (shots.video, pixels))
        with torch.autocast(self.device.type, torch.bfloat16):
            verdict = hinge(self.discriminator(true)[-1], self.discriminator(made.detach())[-1])
        verdict.backward()
        self.optimize(workers, "discriminator")
        losses = reconstruction_losses(pixels, shots, self.options.losses)
        (pull,) = torch.autograd.grad(torch.stack(list(losses.values())).sum(), pixels)
        if step >= self.options.begin:
            told = self._told_apart(true, made)
            losses |= told
            pull = pull + self._weighed(told, pixels, pull)
        video.backward(pull)
        measured = measures(video, shots)
        return {
            "loss": float(sum(value.item() for value in losses.values())),
            **{name: value.item() for name, value in losses.items()},
            "verdict": verdict.item(),
            "psnr": measured["psnr"],
            "sharpness": measured["sharpness"],
            "gradient_norm": self.optimize(workers, *self.made),
        }

    def finish(self) -> None:
        with self.averaged():
            measured = measures(*self._shown())
        decoder = {f"decoder.{name}": value for name, value in self.averaged_state("decoder").items()}
        metadata = {name: f"{value:.4f}" for name, value in measured.items()}
        self.run.save_product("vae", self.vae.state_dict() | decoder, metadata)

    def pictures(self, step: int) -> dict[str, NDArray[np.uint8]]:
        with self.averaged():
            video, shots = self._shown()
        return {"predictions": comparison(video, shots.video)}

    def _draw(self, step: int, workers: Workers) -> tuple[Tensor, Shots]:
        """Latents [B, 16, F, h, w] of this worker's samples and the pictures they shall become."""
        crops, pictures = self.options.crops, self.bank.pictures
        side, samples = draw_side(pictures, crops, self.recipe, step, workers)
        windows, predicted = [], []
        for sample in samples:
            chance = rng(self.recipe.seed, step, sample)
            windows.append(on_the_grid(draw_window(pictures, crops, side, chance), pictures.size))
            predicted.append(bool(chance.random() < self.options.predicted))
        return self.bank.latents(windows, torch.tensor(predicted)), self.bank.shots(windows)

    def _told_apart(self, true: Tensor, made: Tensor) -> dict[str, Tensor]:
        """What the discriminator says of the decoder's pictures [N, 6, H, W]."""
        with torch.autocast(self.device.type, torch.bfloat16):
            *features, verdict = self.discriminator(made)
            with torch.no_grad():
                *wanted, _ = self.discriminator(true)
        apart = [
            (a.float() - b.float()).abs().mean() / b.float().abs().mean() for a, b in zip(features, wanted, strict=True)
        ]
        return {"adversarial": -verdict.float().mean(), "features": self.options.features * torch.stack(apart).mean()}

    def _weighed(self, told: dict[str, Tensor], pixels: Tensor, pull: Tensor) -> Tensor:
        """The gradient of what the discriminator says; the verdict's as long as `adversarial` of the pixels' own, `pull`."""
        (verdict,) = torch.autograd.grad(told["adversarial"], pixels, retain_graph=True)
        (features,) = torch.autograd.grad(told["features"], pixels)
        return features + self.options.adversarial * pull.norm() / verdict.norm().clamp_min(1e-8) * verdict

    @torch.no_grad()
    def _shown(self) -> tuple[Tensor, Shots]:
        """Whole clips of the bank as the transformer made them, decoded, and their pictures."""
        pictures = self.bank.pictures
        clips = np.linspace(0, len(pictures) - 1, WATCHED).astype(int).tolist()
        windows = [Window(clip, 0, 0, pictures.size, 0, self.options.crops.frames) for clip in clips]
        latents = self.bank.latents(windows, torch.ones(WATCHED, dtype=torch.bool))
        return self.vae.decode_clips(latents), self.bank.shots(windows)


class Discriminator(nn.Module):
    """Judges patches of pairs of successive frames (Isola et al., 2017), with spectral norm (Miyato et al., 2018)."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        sides = [2 * 3 * _FOLD**2, *channels]
        self.levels = nn.ModuleList(
            spectral_norm(nn.Conv2d(inward, outward, 3, stride=1 if level == 0 else 2, padding=1))
            for level, (inward, outward) in enumerate(pairwise(sides))
        )
        self.verdict = spectral_norm(nn.Conv2d(channels[-1], 1, 3, padding=1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """The features of every level [N, C, h, w] and, last, the verdict [N, 1, h, w] on pairs [N, 6, H, W]."""
        x = functional.pixel_unshuffle(x, _FOLD)
        seen = []
        for level in self.levels:
            x = functional.leaky_relu(level(x), 0.2)
            seen.append(x)
        return [*seen, self.verdict(x)]


def pairs(video: Tensor, first: NDArray[np.int64]) -> Tensor:
    """Frames `first` [n] and the ones after them, of every clip of video [B, 3, T, H, W]: [B * n, 6, H, W]."""
    chosen = torch.from_numpy(first).to(video.device)
    both = torch.cat([video.index_select(2, chosen), video.index_select(2, chosen + 1)], dim=1)
    return both.transpose(1, 2).flatten(0, 1)


def hinge(true: Tensor, made: Tensor) -> Tensor:
    """The discriminator's loss (Lim and Ye, 2017)."""
    return functional.relu(1 - true.float()).mean() + functional.relu(1 + made.float()).mean()
