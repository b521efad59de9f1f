"""`liveact calibrate`: which linears of a checkpoint stay in bf16 when the others are computed in fp8."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from liveact_services.cli import options
from liveact_services.cli.demo import EXAMPLES
from liveact_services.cli.exits import BadInput
from liveact_services.cli.output import Output, note, stderr_console
from liveact_services.cli.render import load_pipeline
from liveact_services.cli.subjects import subject

if TYPE_CHECKING:
    from rich.table import Table

    from liveact_models.precision import Calibration

SHOWN = 12
"""Of the linears that are off most, in the table for people."""


def calibrate(
    image: Annotated[Path, typer.Option(help="The portrait.")] = EXAMPLES / "portrait.jpg",
    voice: Annotated[Path, typer.Option(help="The voice.")] = EXAMPLES / "voice.wav",
    size: options.Size = None,
    blocks: Annotated[int, typer.Option(help="Blocks to measure.", min=3)] = 5,
    limit: Annotated[
        float, typer.Option(help="Relative error of an output above which a linear is kept.", min=0)
    ] = 0.05,
    most: Annotated[float, typer.Option(help="Largest share of all linears that is kept.", min=0, max=1)] = 0.25,
    threads: options.Threads = 2,
    config: options.ConfigFile = None,
    preset: options.Preset = None,
    checkpoint: options.Checkpoint = None,
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """Measure every linear's error in fp8 on a portrait and a voice, and write fp8.json beside the weights."""
    chosen = options.effective_config(config, settings, preset=preset, checkpoint=checkpoint)
    from rich.progress import track

    from liveact_models.engine import Engine
    from liveact_models.precision import Calibrating

    weights = chosen.open_checkpoint()
    if not weights.trained:
        raise BadInput(f"{weights.describe()}: accepted is a checkpoint of trained weights")
    note(f"calibrating {weights.describe()}")
    pipeline = load_pipeline(chosen, threads, engine=Engine("bf16"))
    measured = subject(pipeline, image, voice, options.parse_size(size))
    calibrating = Calibrating(pipeline.denoiser.transformer)
    with calibrating.watching():
        state = measured.start(pipeline.denoiser)
        for block in track(range(blocks), "blocks", console=stderr_console(), transient=True):
            pipeline.denoiser.denoise(state, block, measured.audio(block).to(pipeline.device))
    found = calibrating.result(weights.config, blocks, limit, most)
    written = found.save(weights.folder)
    output = Output(json)
    output.show(_table(found), f"{len(found.kept)} of {len(found.errors)} linears stay in bf16; written to {written}")
    output.result({"file": str(written), "kept": list(found.kept), "errors": found.errors, "blocks": blocks})


def _table(found: Calibration) -> Table:
    from rich.table import Table

    table = Table("linear", "error in fp8", "", title=f"{found.preset}, the {SHOWN} worst", title_justify="left")
    for name in sorted(found.errors, key=lambda name: -found.errors[name])[:SHOWN]:
        table.add_row(name, f"{found.errors[name]:.2%}", "bf16" if name in found.kept else "fp8")
    return table
