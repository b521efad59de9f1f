"""The stage `autoencoder`: the small VAE learns to bring pictures through its latents, mouths first of all."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from liveact_models.compiling import compiled
from liveact_models.config import TinyVaeConfig, preset
from liveact_models.training.crops import Crops, check_crops, draw_shots
from liveact_models.training.draws import generator
from liveact_models.training.loop import Stage
from liveact_models.training.optim import optimizers_for
from liveact_models.training.picture_bank import PictureBank, Shots, to_video
from liveact_models.training.principal import begin_with, components
from liveact_models.training.recipe import Recipe, RecipeError
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
from liveact_models.training.world import film
from liveact_models.vae import TinyVae

OUTER = ("encoder.entry", "encoder.exit", "decoder.entry", "decoder.exit")
"""Layers with pixels or latents at one side, which AdamW trains."""
WATCHED = 4
"""Clips of people never trained on that are shown and measured."""
UNSEEN = 1 << 31
"""Where their numbers begin."""
SIGHTS = 40
"""Steps' crops from which the weights begin."""
MEASURED = 128
"""Clips that give the latents' mean and deviation."""


@dataclass(frozen=True)
class AutoencoderOptions:
    """Options of the recipe."""

    crops: Crops = field(default_factory=Crops)
    losses: Losses = field(default_factory=Losses)
    latent: float = 1e-4
    """Weight of the latents' square."""
    noise: tuple[float, float] = (0.03, 0.05)
    """Deviation of the noise on the latents, drawn for each sample."""


class AutoencoderStage(Stage):
    """Trains encoder and decoder; `recipe.batch` counts crops. Product: `vae`, its latents of mean 0 and deviation 1."""

    def __init__(self, recipe: Recipe, run: RunFolder, device: torch.device) -> None:
        super().__init__(recipe, run, device)
        self.options = recipe.read_options(AutoencoderOptions)
        self.bank = PictureBank(run.world).to(device)
        check_crops(self.options.crops, self.bank)
        self.vae = TinyVae(tiny_vae_config(recipe)).to(device)
        begin_with(self.vae, components(self._first_sights()))
        self.modules = {"vae": self.vae}
        self.optimizers = optimizers_for(
            self.vae, recipe.lr, recipe.weight_decay, adamw=OUTER, adamw_lr=recipe.adamw_lr
        )
        self._encode = compiled(self.vae.encode_clips, recipe.compile)
        self._decode = compiled(self.vae.decode_clips, recipe.compile)

    def train_step(self, step: int, workers: Workers) -> dict[str, float]:
        shots = draw_shots(self.bank, self.options.crops, self.recipe, step, workers)
        with torch.autocast(self.device.type, torch.bfloat16):
            latents = self._encode(shots.video)
            video = self._decode(latents + self._noise(latents, step, workers))
        losses = reconstruction_losses(video, shots, self.options.losses)
        losses["latent"] = self.options.latent * latents.square().mean()
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        return {
            "loss": loss.item(),
            **{name: value.item() for name, value in losses.items()},
            "psnr": measures(video, shots)["psnr"],
            "latent_std": latents.detach().std().item(),
            "gradient_norm": self.optimize(workers),
        }

    def finish(self) -> None:
        with self.averaged():
            mean, deviation = latent_statistics(self.vae, self.bank)
            measured = reconstruction(self.vae, watched(self.recipe, self.bank))
        state = self.averaged_state("vae") | {"latent_norm.bias": mean, "latent_norm.weight": deviation}
        self.run.save_product("vae", state, {name: f"{value:.4f}" for name, value in measured.items()})

    def pictures(self, step: int) -> dict[str, NDArray[np.uint8]]:
        shots = watched(self.recipe, self.bank)
        with self.averaged():
            return {"reconstruction": comparison(reconstruct(self.vae, shots), shots.video)}

    def _first_sights(self) -> list[Tensor]:
        """Crops for the beginning's components, whole groups of four frames; of steps that training never reaches."""
        crops = dataclasses.replace(self.options.crops, whole=0.0)
        steps = range(self.recipe.steps, self.recipe.steps + SIGHTS)
        shots = (draw_shots(self.bank, crops, self.recipe, step, Workers()) for step in steps)
        return [shot.video[:, :, 1:].cpu() for shot in shots]

    def _noise(self, latents: Tensor, step: int, workers: Workers) -> Tensor:
        """Of a deviation of its own for each sample: like latents [B, Z, F, h, w]."""
        low, high = self.options.noise
        noise = []
        for sample in workers.samples(self.recipe.batch)[: len(latents)]:
            chance = generator(self.recipe.seed, step, sample, device=self.device)
            deviation = low + (high - low) * torch.rand((), generator=chance, device=self.device)
            noise.append(deviation * torch.randn(latents.shape[1:], generator=chance, device=self.device))
        return torch.stack(noise)


def tiny_vae_config(recipe: Recipe) -> TinyVaeConfig:
    """The sizes of the model's VAE. Raises `RecipeError` for a model whose VAE is of another family."""
    config = preset(recipe.model).vae
    if not isinstance(config, TinyVaeConfig):
        raise RecipeError(
            f"recipe of {recipe.name}: model {recipe.model!r} has a VAE of family {config.family!r}, not 'tiny'"
        )
    return config


@torch.no_grad()
def latent_statistics(vae: TinyVae, bank: PictureBank) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every channel of the latents before `latent_norm`, [Z] each."""
    clips = np.linspace(0, len(bank) - 1, min(MEASURED, len(bank))).astype(int).tolist()
    latents = [vae.latent_norm.inverse(vae.encode(bank.whole([clip]).video[0]).transpose(0, 1)) for clip in clips]
    deviation, mean = torch.std_mean(torch.cat(latents).float(), dim=(0, 2, 3))
    return mean, deviation


def watched(recipe: Recipe, bank: PictureBank) -> Shots:
    """Whole clips of people that the bank does not have."""
    clips = [film((recipe.seed, UNSEEN + number), bank.frames, bank.size) for number in range(WATCHED)]
    pictures, boxes = (torch.from_numpy(np.stack(arrays)).to(bank.boxes.device) for arrays in zip(*clips, strict=True))
    return Shots(to_video(pictures), boxes * bank.size)
