"""`liveact evaluate forcing`: the two ways of conditioning on the past, and three of remembering it, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from liveact_services.cli import options
from liveact_services.cli.evaluate.models import Models
from liveact_services.cli.evaluate.report import finish, progress_bar
from liveact_services.cli.evaluate.suites import Blocks, Clips, FirstSeed, Out, PictureSize, script_of
from liveact_services.cli.exits import ExitCode
from liveact_services.cli.output import note
from liveact_services.cli.serve import stop_on_signal

if TYPE_CHECKING:
    from liveact_models.training.run_folder import Status

CONTENDERS = {
    "Neighbor Forcing, mean memory": ("neighbor", "memory=mean"),
    "Neighbor Forcing, no memory": ("neighbor", "memory=none"),
    "Diffusion Forcing, ConvKV": ("diffusion", "context=clean"),
}
"""What stands beside Neighbor Forcing with ConvKV: which training, and the sampling that goes with it."""


def forcing(
    run: Annotated[Path, typer.Option("--run", metavar="DIR", help="A run of `liveact train` that has its latents.")],
    steps: Annotated[int, typer.Option(min=1, help="Of training, each way.")] = 600,
    clips: Clips = 10,
    blocks: Blocks = 8,
    size: PictureSize = 128,
    seed: FirstSeed = 9000,
    out: Out = Path("out/evaluate"),
    threads: options.Threads = 2,
    json: options.Json = False,
) -> None:
    """Neighbor Forcing and Diffusion Forcing, trained alike for equally many steps; ConvKV beside mean and no memory."""
    import torch

    from liveact_models.evaluate.judge import shipped_judge
    from liveact_models.evaluate.suites import lips_suite
    from liveact_models.training.comparison import FORCINGS, train_forcings
    from liveact_models.training.run_folder import RunFolder

    torch.set_num_threads(threads)
    note(
        f"training {' and '.join(FORCINGS)} forcing for {steps} steps each on the latents of {run}, then {clips} clips each"
    )

    def tell(name: str, status: Status) -> None:
        loss = "" if status.loss is None else f", loss {status.loss:.3f}"
        note(f"{name}: step {status.step} of {status.steps}{loss}")

    trained = dict(train_forcings(RunFolder(run), steps, tell, stop_on_signal().is_set))
    if len(trained) < len(FORCINGS):
        note("stopped: the same command goes on from the last checkpoint")
        raise typer.Exit(ExitCode.INTERRUPTED)
    models = Models(None, None, None, str(trained["neighbor"]), threads)
    asked = [f"{name}={trained[way]},{sampling}" for name, (way, sampling) in CONTENDERS.items()]
    with progress_bar() as progress:
        result = lips_suite(
            [models.own(name="Neighbor Forcing, ConvKV"), *models.others(asked)], {"trained": (None,)},
            script_of(clips, blocks, size, seed), shipped_judge(), out, name="forcing", wrong_voice=False, phonemes=False,
            progress=progress,
        )  # fmt: skip
    finish(result, out, json)
