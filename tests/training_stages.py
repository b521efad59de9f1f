"""Small stages for the tests of the training loop; imported by name in other processes too."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from liveact_models.training.draws import generator
from liveact_models.training.loop import Stage, train
from liveact_models.training.optim import optimizers_for
from liveact_models.training.recipe import Recipe, load_recipe
from liveact_models.training.run_folder import RunFolder, Status
from liveact_models.training.stages import open_stage
from liveact_models.training.workers import Workers


@dataclass(frozen=True)
class SharpenOptions:
    width: int = 16
    dropout: float = 0.1
    die_at: int = -1
    """Step at which the process kills itself, once."""
    diverge_at: int = -1
    muon: bool = True


class Sharpen(Stage):
    """Learns to undo a blur: convolutions for Muon, biases for AdamW, dropout for the global generator."""

    def __init__(self, recipe: Recipe, run: RunFolder, device: torch.device) -> None:
        super().__init__(recipe, run, device)
        self.options = recipe.read_options(SharpenOptions)
        width = self.options.width
        self.network = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.SiLU(), nn.Dropout(self.options.dropout),
            nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1),
        ).to(device)  # fmt: skip
        self.modules = {"network": self.network}
        self.optimizers = optimizers_for(
            self.network, recipe.lr, recipe.weight_decay, adamw=() if self.options.muon else ("",)
        )

    def train_step(self, step: int, workers: Workers) -> dict[str, float]:
        if step == self.options.die_at and not (self.run.path / "died").exists():
            (self.run.path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        sharp = torch.stack([self._picture(step, sample) for sample in workers.samples(self.recipe.batch)])
        loss = (self.network(nn.functional.avg_pool2d(sharp, 3, 1, 1)) - sharp).square().mean()
        if step == self.options.diverge_at:
            loss = loss * math.nan
        loss.backward()
        return {"loss": loss.item(), "gradient": self.optimize(workers)}

    def finish(self) -> None:
        self.save_product("network")

    def _picture(self, step: int, sample: int) -> Tensor:
        draws = generator(self.recipe.seed, step, sample)
        return torch.rand(3, 8, 8, generator=draws).to(self.device)


class Count(Stage):
    """Trains nothing; writes one file a step."""

    def train_step(self, step: int, workers: Workers) -> dict[str, float]:
        self.run.world.mkdir(parents=True, exist_ok=True)
        (self.run.world / f"{step}.txt").write_text(str(step))
        return {"files": float(step + 1)}

    def finish(self) -> None:
        (self.run.world / "all.txt").touch()


def main(recipe_file: str, folder: str) -> Status:
    """Train in this process: what a subprocess of the tests runs."""
    torch.set_num_threads(1)
    recipe, run = load_recipe(Path(recipe_file)), RunFolder(folder)
    stage = open_stage(recipe, run, torch.device("cpu"))
    return train(stage, recipe, run, report=lambda status: print(status.step, status.loss, flush=True))


def trained(recipe: Recipe, run: RunFolder, **how: Any) -> tuple[Status, list[Status]]:
    """Train on this process's CPU: the end, and everything that was told on the way."""
    told: list[Status] = []
    return train(open_stage(recipe, run, torch.device("cpu")), recipe, run, report=told.append, **how), told


def unbroken_and_broken(recipe: Recipe, begin: Callable[[str], RunFolder], product: str) -> list[dict[str, Tensor]]:
    """The product of a run trained at one go, and of one stopped after a step and after two more; `begin` makes their folders."""
    weights = []
    for name, stops in (("unbroken", ()), ("broken", (1, 2))):
        run = begin(name)
        for steps in stops:
            asked = iter(range(1, 10))
            status, _ = trained(recipe, run, stop=lambda asked=asked, steps=steps: next(asked) == steps)
            assert status.state == "interrupted"
        trained(recipe, run)
        weights.append(run.load_product(product))
    return weights


if __name__ == "__main__":
    main(*sys.argv[1:])
