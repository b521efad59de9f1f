"""The stage `predictions`: what the transformer makes of clips it knows, beside the pictures that were meant.

A step makes one shard. The transformer denoises each clip's latents from the last of inference's steps, every block with
the true past at that step: what comes out is what it sends the decoder in a session, as soft where it is unsure, and still
lies where the picture does, so that a decoder can be told what was meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from liveact_models.timeline import FRAMES_PER_LATENT
from liveact_models.training.clip_bank import ClipBank
from liveact_models.training.clip_transformer import compiled_velocity
from liveact_models.training.draws import generator
from liveact_models.training.latents import LatentsOptions, clip_seed
from liveact_models.training.neighbor import add_noise, noise_level
from liveact_models.training.prediction_bank import LATENTS, save_predictions
from liveact_models.training.products import open_products
from liveact_models.training.recipe import Recipe, RecipeError, load_recipe
from liveact_models.training.run_folder import RunFolder
from liveact_models.training.shards import ShardStage
from liveact_models.training.world import Film, filmed
from liveact_models.world.clip import make_clip


@dataclass(frozen=True)
class PredictionsOptions:
    """Options of the recipe."""

    processes: int = 2
    """They draw the clips again."""


class PredictionsStage(ShardStage):
    """Denoises the first clips of the bank and draws them again."""

    def __init__(self, recipe: Recipe, run: RunFolder, device: torch.device) -> None:
        options = recipe.read_options(PredictionsOptions)
        self.bank = ClipBank.load(run.latents)
        if recipe.steps * recipe.batch > len(self.bank):
            raise RecipeError(
                f"recipe of predictions: {recipe.steps} steps of {recipe.batch} clips; the bank has {len(self.bank)}"
            )
        self.latents = load_recipe(run.recipe("latents"))
        checkpoint = open_products(run, recipe)
        self.transformer = checkpoint.load_transformer(device=str(device))
        self.time = checkpoint.config.sampling.timesteps[-1]
        self.velocity = compiled_velocity(recipe.compile)
        super().__init__(recipe, run, device, options.processes)

    def shard_path(self, shard: int) -> Path:
        return self.run.predictions / LATENTS.format(shard)

    def work(self, clip: int) -> tuple[Any, ...]:
        frames = 1 + FRAMES_PER_LATENT * (self.bank.latents.shape[2] - 1)
        return film_again, clip_seed(self.latents, clip), frames, self.latents.read_options(LatentsOptions)

    def save(self, shard: int, clips: list[Film]) -> float:
        true, predicted = self._predict(self.clips(shard))
        pictures, boxes = zip(*clips, strict=True)
        save_predictions(self.run.predictions, shard, true, predicted, np.stack(pictures), np.stack(boxes))
        return (predicted - true).square().mean().item()

    @torch.no_grad()
    def _predict(self, chosen: range) -> tuple[Tensor, Tensor]:
        """The clips' latents [B, 16, F, h, w] and what the transformer makes of them."""
        batch = self.bank.batch(torch.tensor(chosen), self.bank.blocks, self.device)
        draws = generator(self.recipe.seed, chosen.start)
        noise = torch.randn(batch.latents.shape, generator=draws).to(self.device)
        times = torch.full((len(chosen),), self.time, device=self.device)
        noisy = add_noise(batch.latents, noise, times)
        with torch.autocast(self.device.type, torch.bfloat16):
            velocity = self.velocity(self.transformer, noisy, times, batch.conditions).velocity
        return batch.latents.cpu(), (noisy - noise_level(times, noisy) * velocity).cpu()


def film_again(seed: int, frames: int, options: LatentsOptions) -> Film:
    """The first frames of a bank's clip, drawn once more."""
    clip = make_clip(seed, options.frames, "train", options.size)
    return filmed(clip.identity, [clip.motion.state(frame) for frame in range(frames)], options.size)
