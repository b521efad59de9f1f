"""`liveact bench exports`: what it costs that sessions survive the loss of a replica."""

from __future__ import annotations

import asyncio
import statistics
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liveact_models.hardware import hardware
from liveact_services.cli import options, serve
from liveact_services.cli.bench.graph import Pass, clip, through_service
from liveact_services.cli.demo import EXAMPLES
from liveact_services.cli.exits import BadInput, CheckFailed
from liveact_services.cli.output import Output, note, reserved_stdout

if TYPE_CHECKING:
    from rich.table import Table

    from liveact_services.vault.exporter import Exported

THROUGHPUT_RATIO = 0.97
UNPROTECTED = "unprotected"
"""The application whose sessions are never exported, beside the one under test."""
PARTS = {"denoiser": "Denoiser", "decoder": "VaeDecoder"}


@dataclass(frozen=True)
class Exports:
    """What one stage exported during the measured passes."""

    count: int
    nbytes: int
    serialised_s: float

    def to_dict(self) -> dict[str, Any]:
        each = max(self.count, 1)
        return {
            "exports": self.count,
            "bytes": round(self.nbytes / each),
            "serialise_ms": round(1000 * self.serialised_s / each, 2),
        }


@dataclass(frozen=True)
class Cost:
    """The same clip with exports and without, pair after pair."""

    protected: list[Pass]
    unprotected: list[Pass]
    exports: dict[str, Exports]
    """By stage."""
    every: int
    """Blocks from one export to the next."""
    width: int
    height: int

    @property
    def ratios(self) -> list[float]:
        """Of each pair, the throughput with exports against that without."""
        return [on.fps / off.fps for on, off in zip(self.protected, self.unprotected, strict=True)]

    @property
    def throughput_ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def passed(self) -> bool:
        return self.throughput_ratio >= THROUGHPUT_RATIO

    def to_dict(self) -> dict[str, Any]:
        ratios = sorted(self.ratios)
        return {
            "throughput_ratio": round(self.throughput_ratio, 3),
            "ratio_min": round(ratios[0], 3),
            "ratio_max": round(ratios[-1], 3),
            "ratios": [round(ratio, 3) for ratio in self.ratios],
            "passed": self.passed,
            "fps_protected": round(statistics.median(p.fps for p in self.protected), 2),
            "fps_unprotected": round(statistics.median(p.fps for p in self.unprotected), 2),
            "stages": {stage: exports.to_dict() for stage, exports in self.exports.items()},
            "export_blocks": self.every,
            "pairs": len(ratios),
            "frames": self.protected[0].frames,
            "width": self.width,
            "height": self.height,
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "hardware": hardware(),
        }

    def table(self) -> Table:
        from rich.table import Table

        values = self.to_dict()
        title = f"{self.width}x{self.height}, {values['frames']} frames, {values['pairs']} pairs, medians"
        table = Table("", "with exports", "without", "", title=title, title_justify="left")
        spread = f"{values['ratio_min']:.3f} to {values['ratio_max']:.3f}"
        table.add_row(
            "frames a second", f"{values['fps_protected']:.1f}", f"{values['fps_unprotected']:.1f}",
            f"ratio {self.throughput_ratio:.3f} ({spread}), at least {THROUGHPUT_RATIO}",
        )  # fmt: skip
        table.add_section()
        for stage, figures in values["stages"].items():
            what = f"{figures['bytes'] / 1000:.0f} kB, {figures['serialise_ms']:.1f} ms to serialise"
            table.add_row(f"{stage}'s export", f"{figures['exports']} exports", "none", what)
        return table


def exports(
    size: options.Size = None,
    seconds: Annotated[float, typer.Option(help="Voice in the clip.", min=5)] = 24.0,
    pairs: Annotated[int, typer.Option(help="How often both ways are measured, in turn.", min=1)] = 7,
    preset: options.Preset = None,
    checkpoint: options.Checkpoint = None,
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """The same clip through a service that exports its sessions and through one beside it that does not, in turn.

    Both run all the time, and only one works at a time; which of a pair is first alternates. Exits with 1 below 0.97 of the
    throughput without exports. Ctrl-C shows what was measured so far.
    """
    if not EXAMPLES.is_dir():
        raise BadInput(f"{EXAMPLES} is not there: run this from a checkout of the repository")
    with reserved_stdout() as stdout:
        with serve.own_service(None, settings, preset=preset, checkpoint=checkpoint) as service:
            if not service.config.sessions.export_blocks:
                raise BadInput("sessions.export_blocks is 0, so nothing is exported: accepted are 2 on")
            cost = _measure(service, *options.parse_size(size), seconds, pairs)
        output = Output(json, stdout=stdout)
        output.show(cost.table())
        output.result(cost.to_dict())
    if not cost.passed:
        raise CheckFailed(f"throughput ratio {cost.throughput_ratio:.3f}, at least {THROUGHPUT_RATIO} is asked for")


def _measure(service: serve.OwnService, width: int, height: int, seconds: float, pairs: int) -> Cost:
    from liveact_services.service import APPLICATION

    config = service.config
    bare = config.model_copy(update={"sessions": config.sessions.model_copy(update={"export_blocks": 0})})
    note("starting the same deployments once more, without exports")
    service.running.add(UNPROTECTED, bare, note)
    if not (width or height):
        width, height = config.open_checkpoint().config.limits.default
    portrait, voice = (EXAMPLES / "portrait.jpg").read_bytes(), clip(seconds)
    passes: dict[str, list[Pass]] = {APPLICATION: [], UNPROTECTED: []}
    before: dict[str, Exported] = {}
    try:
        for number in range(-1, pairs):
            note("warming up both" if number < 0 else f"pair {number + 1} of {pairs}")
            if number == 0:
                before = {stage: _exported(stage) for stage in PARTS}
            pair = {
                application: asyncio.run(through_service(service.address, portrait, voice, width, height, application))
                for application in sorted(passes, reverse=bool(number % 2))
            }
            if number >= 0:
                for application, one in pair.items():
                    passes[application].append(one)
    except KeyboardInterrupt:
        if not passes[APPLICATION]:
            raise
    made = {stage: _since(before[stage], _exported(stage)) for stage in PARTS}
    every = config.sessions.export_blocks
    return Cost(passes[APPLICATION], passes[UNPROTECTED], made, every, width, height)


def _exported(stage: str) -> Exported:
    """What the stage's replica has exported so far."""
    from ray import serve as ray_serve

    from liveact_services.service import APPLICATION

    handle: Any = ray_serve.get_deployment_handle(PARTS[stage], APPLICATION).options(session_id="bench")
    return handle.exported.remote().result()


def _since(before: Exported, after: Exported) -> Exports:
    return Exports(after.count - before.count, after.nbytes - before.nbytes, after.serialised_s - before.serialised_s)
