"""The stage `predictions`: what the transformer makes of clips it knows, beside the pictures that were meant.

A step makes one shard. The transformer denoises each clip's latents from the last of inference's steps, every block with
the true past at that step: what comes out is what it sends the decoder in a session, as soft where it is unsure, and still
lies where the picture does, so that a decoder can be told what was meant.
"""

from __future__ import annotations

from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from liveact_models.timeline import FRAMES_PER_LATENT
from liveact_models.training.clip_bank import ClipBank
from liveact_models.training.clip_transformer import compiled_velocity
from liveact_models.training.draws import generator
from liveact_models.training.latents import LatentsOptions, clip_seed
from liveact_models.training.loop import Stage
from liveact_models.training.neighbor import add_noise, noise_level
from liveact_models.training.prediction_bank import LATENTS, save_predictions
from liveact_models.training.products import open_products
from liveact_models.training.recipe import Recipe, RecipeError, load_recipe
from liveact_models.training.run_folder import RunFolder
from liveact_models.training.workers import Workers
from liveact_models.world.clip import make_clip
from liveact_models.world.draw import face_box, mouth_box


@dataclass(frozen=True)
class PredictionsOptions:
    """Options of the recipe."""

    processes: int = 2
    """They draw the clips again."""


class PredictionsStage(Stage):
    """Makes `steps` shards of `batch` clips of the bank, on every worker; shards that are there are kept."""

    def __init__(self, recipe: Recipe, run: RunFolder, device: torch.device) -> None:
        super().__init__(recipe, run, device)
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
        self._pool = ProcessPoolExecutor(options.processes, get_context("spawn"))
        self._ahead: dict[int, list[Future[Film]]] = {}

    def train_step(self, step: int, workers: Workers) -> dict[str, float]:
        shards = range(workers.rank, self.recipe.steps * workers.size, workers.size)
        for shard in shards[step : step + 2]:
            self._order(shard)
        error = 0.0
        if futures := self._ahead.pop(shards[step], None):
            chosen = self._clips(shards[step])
            true, predicted = self._predict(chosen)
            error = (predicted - true).square().mean().item()
            pictures, boxes = zip(*(future.result() for future in futures), strict=True)
            save_predictions(self.run.predictions, shards[step], true, predicted, np.stack(pictures), np.stack(boxes))
        return {"loss": error, "clips": float((step + 1) * self.recipe.batch * workers.size)}

    def finish(self) -> None:
        """The shards are written already."""

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _clips(self, shard: int) -> range:
        first = shard * self.recipe.batch
        return range(first, first + self.recipe.batch)

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

    def _order(self, shard: int) -> None:
        if shard in self._ahead or (self.run.predictions / LATENTS.format(shard)).exists():
            return
        options = self.latents.read_options(LatentsOptions)
        frames = 1 + FRAMES_PER_LATENT * (self.bank.latents.shape[2] - 1)
        self._ahead[shard] = [
            self._pool.submit(film_again, clip_seed(self.latents, clip), frames, options) for clip in self._clips(shard)
        ]


Film = tuple[NDArray[np.uint8], NDArray[np.float32]]


def film_again(seed: int, frames: int, options: LatentsOptions) -> Film:
    """The clip of a bank drawn once more: pictures [T, H, W, 3] and boxes [T, 2, 4] of mouth and face, in fractions."""
    clip = make_clip(seed, options.frames, "train", options.size)
    states = [clip.motion.state(frame) for frame in range(frames)]
    boxes = [[mouth_box(clip.identity, state), face_box(clip.identity, state)] for state in states]
    return clip.frames(0, frames), np.array(boxes, np.float32)
