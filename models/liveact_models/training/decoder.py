"""The stage `decoder`: the decoder once more, against a discriminator, for pictures as sharp as the truth.

The encoder is frozen, so that latents stay what the transformer knows. The decoder sees them clean, noisy and blurred, the
last as a denoiser makes them where it is unsure.
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

from liveact_models.training.autoencoder import OUTER, tiny_vae_config, watched
from liveact_models.training.compiling import compiled
from liveact_models.training.crops import Crops, check_crops, draw_shots
from liveact_models.training.draws import generator, rng
from liveact_models.training.loop import Stage
from liveact_models.training.optim import optimizers_for
from liveact_models.training.picture_bank import PictureBank
from liveact_models.training.recipe import Recipe
from liveact_models.training.reconstruction import (
    Losses,
    comparison,
    measures,
    reconstruct,
    reconstruction,
    reconstruction_losses,
)
from liveact_models.training.run_folder import RunFolder
from liveact_models.training.workers import Workers
from liveact_models.vae import TinyVae

_FOLD = 2
"""Side of the pixel patch the discriminator begins with."""


@dataclass(frozen=True)
class DecoderOptions:
    """Options of the recipe."""

    crops: Crops = field(default_factory=Crops)
    losses: Losses = field(default_factory=Losses)
    adversarial: float = 0.05
    """Weight of the discriminator's verdict."""
    features: float = 0.5
    """Weight of the difference between what the discriminator sees in both."""
    begin: int = 100
    """Steps in which the discriminator learns before it is listened to."""
    judged: int = 8
    """Pairs of frames of each sample that the discriminator judges."""
    clean: float = 0.4
    """Share of samples whose latents are left as they are."""
    noise: float = 0.2
    """Highest deviation of the noise on the others."""
    blur: float = 0.5
    """Highest share of the mean over neighbours in the others."""
    channels: tuple[int, ...] = (48, 64, 96)
    """Of the discriminator; each level has half the side of the one before."""
    discriminator_lr: float = 4e-4


class DecoderStage(Stage):
    """Fine-tunes the decoder of the product `vae`, and writes that product again. `recipe.batch` counts crops."""

    def __init__(self, recipe: Recipe, run: RunFolder, device: torch.device) -> None:
        super().__init__(recipe, run, device)
        self.options = options = recipe.read_options(DecoderOptions)
        self.bank = PictureBank(run.world).to(device)
        check_crops(options.crops, self.bank)
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
        shots = draw_shots(self.bank, self.options.crops, self.recipe, step, workers)
        with torch.autocast(self.device.type, torch.bfloat16):
            with torch.no_grad():
                latents = self._perturbed(self.vae.encode_clips(shots.video), step, workers)
            video = self._decode(latents)
        first = rng(self.recipe.seed, step).choice(video.shape[2] - 1, self.options.judged, replace=False)
        true, made = (pairs(clips, first) for clips in (shots.video, video))
        with torch.autocast(self.device.type, torch.bfloat16):
            verdict = hinge(self.discriminator(true)[-1], self.discriminator(made.detach())[-1])
        verdict.backward()
        self.optimize(workers, "discriminator")
        losses = reconstruction_losses(video, shots, self.options.losses) | self._told_apart(true, made, step)
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        measured = measures(video, shots)
        return {
            "loss": loss.item(),
            **{name: value.item() for name, value in losses.items()},
            "verdict": verdict.item(),
            "psnr": measured["psnr"],
            "sharpness": measured["sharpness"],
            "gradient_norm": self.optimize(workers, *self.made),
        }

    def finish(self) -> None:
        with self.averaged():
            measured = reconstruction(self.vae, watched(self.recipe, self.bank))
        decoder = {f"decoder.{name}": value for name, value in self.averaged_state("decoder").items()}
        metadata = {name: f"{value:.4f}" for name, value in measured.items()}
        self.run.save_product("vae", self.vae.state_dict() | decoder, metadata)

    def pictures(self, step: int) -> dict[str, NDArray[np.uint8]]:
        shots = watched(self.recipe, self.bank)
        with self.averaged():
            return {"reconstruction": comparison(reconstruct(self.vae, shots), shots.video)}

    def _told_apart(self, true: Tensor, made: Tensor, step: int) -> dict[str, Tensor]:
        """What the discriminator says of the decoder's pictures [N, 6, H, W]; zero until it is listened to."""
        if step < self.options.begin:
            return {name: made.new_zeros(()) for name in ("adversarial", "features")}
        with torch.autocast(self.device.type, torch.bfloat16):
            *features, verdict = self.discriminator(made)
            with torch.no_grad():
                *wanted, _ = self.discriminator(true)
        apart = [
            (a.float() - b.float()).abs().mean() / b.float().abs().mean() for a, b in zip(features, wanted, strict=True)
        ]
        return {
            "adversarial": -self.options.adversarial * verdict.float().mean(),
            "features": self.options.features * torch.stack(apart).mean(),
        }

    def _perturbed(self, latents: Tensor, step: int, workers: Workers) -> Tensor:
        """Latents [B, Z, F, h, w], each sample's blurred and noisy to a degree of its own or left as it is."""
        options = self.options
        blurred = functional.avg_pool3d(functional.pad(latents, (1,) * 6, mode="replicate"), 3, stride=1)
        perturbed = []
        for sample, clear, soft in zip(workers.samples(self.recipe.batch), latents, blurred, strict=False):
            chance = generator(self.recipe.seed, step, sample, device=self.device)
            left, noise, blur = torch.rand(3, generator=chance, device=self.device)
            degree = (left >= options.clean).to(latents.dtype)
            noisy = options.noise * noise * torch.randn(clear.shape, generator=chance, device=self.device)
            perturbed.append(clear + degree * (options.blur * blur * (soft - clear) + noisy))
        return torch.stack(perturbed)


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
