"""`liveact bench precision`: how far fp8 takes a session's latents from bf16, by step and after many blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liveact_models.hardware import hardware
from liveact_services.cli import options
from liveact_services.cli.demo import EXAMPLES
from liveact_services.cli.output import Output, note, stderr_console
from liveact_services.cli.render import load_pipeline
from liveact_services.cli.subjects import subject

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from liveact_models.checkpoint import Checkpoint
    from liveact_models.config import SamplingConfig
    from liveact_models.denoiser import BlockDenoiser
    from liveact_models.precision import Calibration
    from liveact_models.precision.comparison import Distance

UNCALIBRATED = "fp8, every linear"
VARIANTS = {
    "fp32": ("fp32", "exact"),
    UNCALIBRATED: ("fp8", "exact"),
    "fp8, calibrated": ("fp8", "exact"),
    "bf16, memory in fp8": ("bf16", "fp8"),
    "fp8, calibrated, memory in fp8": ("fp8", "fp8"),
}
"""What is held against bf16: precision and form of the memory."""


@dataclass(frozen=True)
class Precisions:
    """What was measured of one checkpoint."""

    preset: str
    size: tuple[int, int]
    distances: dict[str, Distance]
    calibration: Calibration | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "preset": self.preset, "size": list(self.size), "reference": "bf16",
            "variants": {
                name: {"steps": [round(e, 6) for e in found.steps], "blocks": [round(e, 6) for e in found.blocks]}
                for name, found in self.distances.items()
            },
            "kept": [] if self.calibration is None else [
                {"linear": name, "error": self.calibration.errors[name]} for name in self.calibration.kept
            ],
            "date": datetime.now(UTC).strftime("%Y-%m-%d"), "hardware": hardware(),
        }  # fmt: skip

    def table(self) -> Table:
        from rich.table import Table

        first = next(iter(self.distances.values()))
        steps = [f"step {index + 1}" for index in range(len(first.steps))]
        last = len(first.blocks) - 1
        width, height = self.size
        table = Table("against bf16", *steps, "block 2", f"block {last}", title=f"{self.preset}, {width}x{height}")
        for name, found in self.distances.items():
            figures = (*found.steps, found.blocks[2], found.blocks[-1])
            table.add_row(name, *(f"{error:.2e}" for error in figures))
        return table


def denoisers(
    checkpoint: Checkpoint, device: torch.device, sampling: SamplingConfig
) -> Iterator[tuple[str, BlockDenoiser]]:
    """One model after the other, so that one is in memory at a time."""
    from liveact_models.denoiser import BlockDenoiser
    from liveact_models.engine import Engine, load_transformer

    for name, (precision, cache) in VARIANTS.items():
        transformer, _ = load_transformer(
            checkpoint, Engine(precision, cache=cache), device, calibrated=name != UNCALIBRATED  # type: ignore[arg-type]
        )  # fmt: skip
        yield name, BlockDenoiser(transformer, checkpoint.config, sampling, cache=cache)  # type: ignore[arg-type]


def precision(
    image: Annotated[Path, typer.Option(help="The portrait.")] = EXAMPLES / "portrait.jpg",
    voice: Annotated[Path, typer.Option(help="The voice.")] = EXAMPLES / "voice.wav",
    size: options.Size = None,
    blocks: Annotated[int, typer.Option(help="Blocks of each session.", min=3)] = 21,
    threads: options.Threads = 2,
    config: options.ConfigFile = None,
    preset: options.Preset = None,
    checkpoint: options.Checkpoint = None,
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """Make one session in bf16, and again in fp32 and fp8: relative errors of a block's latents by step, and of later blocks."""
    chosen = options.effective_config(config, settings, preset=preset, checkpoint=checkpoint)
    from rich.progress import track

    from liveact_models.engine import Engine
    from liveact_models.precision import Calibration
    from liveact_models.precision.comparison import distance, record

    note(f"comparing precisions of {chosen.preset}, checkpoint {chosen.checkpoint}")
    pipeline = load_pipeline(chosen, threads, engine=Engine("bf16"))
    weights = pipeline.checkpoint
    measured = subject(pipeline, image, voice, options.parse_size(size))
    recorded = record(pipeline.denoiser, measured.start, measured.audio, blocks)
    found: dict[str, Distance] = {}
    models = track(
        denoisers(weights, pipeline.device, pipeline.denoiser.sampling),
        "models",
        len(VARIANTS),
        console=stderr_console(),
        transient=True,
    )
    for name, denoiser in models:
        found[name] = distance(denoiser, recorded, measured.start, measured.audio)
    calibration = Calibration.read(weights.folder, weights.config) if weights.trained else None
    before = recorded.before
    result = Precisions(weights.config.name, (before.width, before.height), found, calibration)
    output = Output(json)
    output.show(result.table())
    for kept in result.to_dict()["kept"]:
        output.show(f"kept in bf16: {kept['linear']}, off by {kept['error']:.2%} in fp8")
    output.result(result.to_dict())
