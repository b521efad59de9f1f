"""The stages of training by name, in the order in which they run; a stage's module is imported when it is run."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from liveact_models.training import TrainingError

if TYPE_CHECKING:
    import torch

    from liveact_models.training.loop import Stage
    from liveact_models.training.recipe import Recipe
    from liveact_models.training.run_folder import RunFolder

STAGES = {
    "world": "liveact_models.training.world:WorldStage",
    "encoders": "liveact_models.training.encoders:EncodersStage",
    "autoencoder": "liveact_models.training.autoencoder:AutoencoderStage",
    "latents": "liveact_models.training.latents:LatentsStage",
    "stage1": "liveact_models.training.neighbor:NeighborStage",
    "stage2": "liveact_models.training.distill:DistillStage",
    "predictions": "liveact_models.training.predictions:PredictionsStage",
    "decoder": "liveact_models.training.decoder:DecoderStage",
    "package": "liveact_models.training.package:PackageStage",
}
ABOUT = {
    "world": "talking portraits and voices, rendered",
    "encoders": "the sound, text and picture encoders",
    "autoencoder": "video to latents and back",
    "latents": "the world as latents and features",
    "stage1": "the transformer, by Neighbor Forcing",
    "stage2": "three steps and the ConvKV memory, by distillation",
    "predictions": "clips as the transformer makes them, beside the truth",
    "decoder": "sharp pictures from latents",
    "package": "the checkpoint folder",
}


def stage_class(name: str) -> type[Stage]:
    """The class of a stage by its name, or by "module:Class". Raises `TrainingError` for one that is not there."""
    module, _, kind = STAGES.get(name, name).partition(":")
    if not kind:
        raise TrainingError(f"stage {name!r} is unknown; accepted are {', '.join(STAGES)}")
    try:
        return getattr(importlib.import_module(module), kind)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise TrainingError(f"stage {name!r}: there is no module {module}") from None
    except AttributeError:
        raise TrainingError(f"stage {name!r}: module {module} has no {kind}") from None


def open_stage(recipe: Recipe, run: RunFolder, device: torch.device) -> Stage:
    """The stage a recipe names, its weights drawn from the recipe's seed.

    Raises `RunError` where the folder belongs to another recipe, and what the stage raises.
    """
    from liveact_models.training.draws import seed_all

    run.claim(recipe)
    kind = stage_class(recipe.stage)
    seed_all(recipe.seed)
    return kind(recipe, run, device)
