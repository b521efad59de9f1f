"""What the finished stages of a run made, opened as the checkpoint they are becoming."""

from __future__ import annotations

import json

from liveact_models.checkpoint import Checkpoint, open_checkpoint
from liveact_models.checkpoint.layouts import FORMAT, MANIFEST, VERSION
from liveact_models.config import preset
from liveact_models.training.recipe import Recipe
from liveact_models.training.run_folder import RunFolder


def open_products(run: RunFolder, recipe: Recipe) -> Checkpoint:
    """The products of the run, of the model the recipe names; each module loads once its stage has finished."""
    run.products.mkdir(parents=True, exist_ok=True)
    manifest = {"format": FORMAT, "version": VERSION, "config": preset(recipe.model).to_dict()}
    path = run.products / MANIFEST
    text = json.dumps(manifest, indent=2)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    return open_checkpoint(str(run.products))
