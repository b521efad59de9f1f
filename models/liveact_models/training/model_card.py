"""The model card of a packaged run: what it was trained on, by which commands, where, how long, and what was measured."""

from __future__ import annotations

from typing import Any

import torch

from liveact_models.config import ModelConfig
from liveact_models.hardware import hardware
from liveact_models.training.recipe import load_recipe
from liveact_models.training.run_folder import RunFolder
from liveact_models.training.stages import ABOUT, STAGES

FIGURES = "figures.md"
"""A file in the run folder whose text stands under "Measured": tables of `liveact evaluate`."""

_CARD = """# LiveAct tiny

A small model of SoulX-LiveAct's architecture: a block-wise autoregressive diffusion transformer with Neighbor Forcing and
ConvKV memory, three steps a block. It makes drawn portraits talk at {width}x{height} pixels, {fps} frames a second, on a laptop's
CPU. It is there to try the service, to test it and to show the training; it has never seen a photograph.

- **Sizes**: {sizes}; {megabytes:.1f} MB as float16.
- **Data**: drawn portraits and synthetic speech, both made by `liveact_models.world` from seeds; no person, recording or data set
  was used. Voices: hibari-tts (Apache-2.0) and espeak-ng voices (the program is GPL-3; what it says is not a derived work of it),
  pitched, filtered and mixed with noise. Test sentences, test people and the held-out voices were never trained on.
- **Licence**: that of this repository.
- **Limits**: faces in other styles than the renderer's, photographs above all, come out as the nearest drawn face; English speech
  is what it knows best; prompts move five emotions and four actions.

## Made by

```
{commands}
```

{hardware}

| stage | what it trains | steps x batch | seed | minutes |
| --- | --- | --- | --- | --- |
{stages}

## Measured

{figures}
"""


def model_card(run: RunFolder, config: ModelConfig, weight_bytes: int) -> str:
    """Markdown; what was not measured is said to be so."""
    width, height = config.limits.default
    transformer = config.transformer
    figures = run.path / FIGURES
    return _CARD.format(
        width=width,
        height=height,
        fps=config.fps,
        sizes=f"transformer of {transformer.num_layers} layers, {transformer.dim} wide, {transformer.num_heads} heads; "
        f"VAE of the {config.vae.family} family, strides 4x8x8, 16 channels",
        megabytes=weight_bytes / 1e6,
        commands=f"liveact train all --preset {run.begun_with()} --run DIR",
        hardware=f"Hardware: {hardware()}, PyTorch {torch.__version__}.",
        stages="\n".join(_row(run, stage) for stage in STAGES if (run.path / "recipes" / f"{stage}.yaml").exists()),
        figures=figures.read_text().strip() if figures.exists() else "Not measured yet.",
    )


def _row(run: RunFolder, stage: str) -> str:
    recipe = load_recipe(run.path / "recipes" / f"{stage}.yaml")
    status: Any = run.status(stage)
    minutes = f"{status.seconds / 60:.0f}" if status else "-"
    return f"| `{stage}` | {ABOUT[stage]} | {recipe.steps} x {recipe.batch} | {recipe.seed} | {minutes} |"
