"""Neighbor Forcing and its baseline, trained alike for equally many steps, so that one table can compare them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from liveact_models.training.loop import train
from liveact_models.training.recipe import Recipe, shipped_recipe
from liveact_models.training.run_folder import RunError, RunFolder, Status
from liveact_models.training.stages import open_stage
from liveact_models.training.workers import Workers

FORCINGS = ("neighbor", "diffusion")
"""One diffusion time a clip, or one a block; everything else is the same: data, order, steps, size."""


def train_forcings(
    run: RunFolder,
    steps: int,
    report: Callable[[str, Status], None],
    stop: Callable[[], bool] = lambda: False,
    compile: bool = True,
) -> Iterator[tuple[str, Path]]:
    """Train stage 1 each way on the run's own latents, and yield each way's name and checkpoint folder.

    What was interrupted goes on; what is finished is not trained again. Folders: RUN/forcings/NAME.
    Raises `RunError` where the run has no latents yet.
    """
    if not any(run.latents.glob("clips-*.safetensors")):
        raise RunError(f"{run.path}: no clips to train on; run `liveact train latents --run {run.path}` first")
    preset = run.begun_with() or "tiny"
    for forcing in FORCINGS:
        folder = _beside(run, forcing)
        recipe = shipped_recipe(preset, "stage1")
        options = {**recipe.options, "forcing": forcing, "first_clips": 0}
        schedule = recipe.schedule.model_copy(update={"cycles": 1})
        recipe = recipe.model_copy(
            update={"steps": steps, "options": options, "schedule": schedule, "compile": compile}
        )
        if not _train(folder, recipe, partial(report, forcing), stop):
            return
        _train(folder, shipped_recipe(preset, "package"), lambda status: None, stop)
        yield forcing, folder.path / "checkpoint"


def _train(folder: RunFolder, recipe: Recipe, report: Callable[[Status], None], stop: Callable[[], bool]) -> bool:
    stage = open_stage(recipe, folder, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return train(stage, recipe, folder, Workers(), report, stop).state == "finished"


def _beside(run: RunFolder, name: str) -> RunFolder:
    """A run folder of its own that shares the run's latents and starts with its products."""
    folder = RunFolder(run.path / "forcings" / name)
    folder.path.mkdir(parents=True, exist_ok=True)
    if not folder.latents.exists():
        folder.latents.symlink_to(run.latents)
    folder.products.mkdir(exist_ok=True)
    for product in run.products.iterdir():
        if not (folder.products / product.name).exists():
            shutil.copy(product, folder.products / product.name)
    return folder
