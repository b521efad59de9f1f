"""The last stage: the products of a run become a checkpoint folder, with a model card."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from liveact_models.checkpoint import save_checkpoint
from liveact_models.checkpoint.layouts import MODULES
from liveact_models.training.loop import Stage
from liveact_models.training.model_card import model_card
from liveact_models.training.products import open_products
from liveact_models.training.workers import Workers

MAX_BYTES = 60 * 2**20


@dataclass(frozen=True)
class PackageOptions:
    """Options of the recipe."""

    out: str = "checkpoint"
    """The folder written, inside the run's."""
    half: bool = True
    """Weights as float16: half the bytes, and what a laptop computes with is float32 again."""


class PackageStage(Stage):
    """Loads every module by the code that serves it, so that what is shipped is known to open."""

    def train_step(self, step: int, workers: Workers) -> dict[str, float]:
        return {"loss": 0.0}

    def finish(self) -> None:
        options = self.recipe.read_options(PackageOptions)
        out = Path(self.run.path / options.out)
        checkpoint = open_products(self.run, self.recipe)
        modules = {name: getattr(checkpoint, f"load_{name}")() for name in MODULES}
        save_checkpoint(out, modules, checkpoint.config)
        if options.half:
            for name in MODULES:
                _halve(out / f"{name}.safetensors")
        card = model_card(self.run, checkpoint.config, sum(p.stat().st_size for p in out.glob("*.safetensors")))
        (out / "README.md").write_text(card + f"\nPackaged {datetime.now(UTC):%Y-%m-%d}.\n")


def _halve(path: Path) -> None:
    tensors = {
        name: tensor.to(torch.float16) if tensor.is_floating_point() else tensor
        for name, tensor in load_file(path).items()
    }
    part = path.with_suffix(".part")
    # Not save_file: what that writes only its owner may read, and this is a file to hand on.
    part.write_bytes(save(tensors))
    part.replace(path)
