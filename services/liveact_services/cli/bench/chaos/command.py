"""`liveact bench chaos`: every part of a service is killed in turn while sessions stream, and every frame is compared."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liveact_services.cli import options, serve
from liveact_services.cli.bench.graph import clip
from liveact_services.cli.demo import EXAMPLES
from liveact_services.cli.exits import BadInput, CheckFailed
from liveact_services.cli.output import Output, note, reserved_stdout, stderr_console

if TYPE_CHECKING:
    from collections.abc import Callable

    from liveact_services.cli.bench.chaos.outcome import Outcome

TWICE = ("gateway", "denoiser", "vae_decoder", "audio_encoder")
"""Deployments of two replicas: those that a block or a session cannot wait for."""
TIMES = {"sessions.stage_timeout_s": 10, "sessions.detached_timeout_s": 60}
"""A hung replica is noticed after 10 s instead of 20. A session waits for its client for a minute instead of half of one: the
proxy's port needs 22 s to be back, and longer on a machine that is busy."""
REPAIR_S = 18.0
"""About what a process takes to be replaced on two cores, in mean over the kinds; for the estimate only. Serve needs two minutes
for one that is stopped for good."""
MOST_SECONDS = 20.0
"""What one request carries of the example's voice."""


def chaos(
    size: options.Size = "32x32",
    kills: Annotated[int, typer.Option(help="How many times something is killed.", min=1)] = 100,
    every: Annotated[
        float, typer.Option(help="Seconds from the service being whole to the next kill, give or take half.", min=0)
    ] = 6.0,
    kinds: Annotated[
        str | None, typer.Option(metavar="A,B", help="What is killed; all kinds by default. `list` prints them.")
    ] = None,
    turn: Annotated[bool, typer.Option("--in-turn", help="Kinds one after the other, not in a random order.")] = False,
    overlap: Annotated[
        bool, typer.Option("--overlap", help="Kill also while another kind is not back: more than one fault at a time.")
    ] = False,
    sessions: Annotated[int, typer.Option(help="Sessions at a time; others follow them.", min=1)] = 4,
    seconds: Annotated[float, typer.Option(help="Voice of each session.", min=5, max=MOST_SECONDS)] = 20.0,
    seed: options.Seed = 0,
    preset: options.Preset = None,
    checkpoint: options.Checkpoint = None,
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """Kill every part of a service of its own, one at a time, while sessions stream; print what viewers saw.

    Exits with 1 when a session is lost or a frame differs from the undisturbed run, is missing or comes twice.
    """
    from liveact_services.cli.bench.chaos.storm import Storm, disturb
    from liveact_services.cli.bench.chaos.victims import KINDS, Wanted
    from liveact_services.cli.bench.chaos.viewers import Play
    from liveact_services.service import hush_ray

    if kinds == "list":
        Output(json).show("\n".join(KINDS))
        Output(json).result({"kinds": list(KINDS)})
        return
    chosen = _chosen(kinds, KINDS)
    if not EXAMPLES.is_dir():
        raise BadInput(f"{EXAMPLES} is not there: run this from a checkout of the repository")
    storm = Storm(kills, every, chosen, "turn" if turn else "shuffled", overlap, sessions, seed)
    play = Play((EXAMPLES / "portrait.jpg").read_bytes(), clip(seconds), options.parse_size(size))
    own = [*(f"{stage}.replicas=2" for stage in TWICE), *(f"{key}={value}" for key, value in TIMES.items())]
    note(f"{kills} kills of {len(chosen)} kinds: about {kills * (every + REPAIR_S) / 60 + 1.5:.0f} minutes")
    note(f"the service runs with {' '.join(own)}")
    with reserved_stdout() as stdout:
        with (
            serve.own_service(None, [*own, *(settings or [])], preset=preset, checkpoint=checkpoint) as service,
            _progress(kills) as told,
        ):
            # Ray would tell of every process that died, in red.
            hush_ray()
            outcome = asyncio.run(disturb(Wanted.of(service.config, service.address), storm, play, told))
        _show(Output(json, stdout=stdout), outcome, own)


def _chosen(kinds: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    if kinds is None:
        return known
    chosen = tuple(kind.strip() for kind in kinds.split(",") if kind.strip())
    unknown = [kind for kind in chosen if kind not in known]
    if unknown or not chosen:
        raise typer.BadParameter(f"{kinds!r}: expected some of {', '.join(known)}", param_hint="--kinds")
    return chosen


def _show(output: Output, outcome: Outcome, own: list[str]) -> None:
    output.show(outcome.table())
    output.result({**outcome.to_dict(), "settings": own})
    if outcome.interrupted:
        note("interrupted: this is what there was until then")
    if outcome.errors:
        raise CheckFailed("; ".join(outcome.errors))


@contextmanager
def _progress(kills: int) -> Iterator[Callable[[int, str], None]]:
    """A bar over the kills, and a line for each."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = stderr_console()
    columns: list[Any] = [
        TextColumn("kills"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=kills)

        def told(done: int, what: str) -> None:
            bar.update(task, completed=done)
            console.print(f"{done:4d}  {what}", highlight=False, markup=False)

        yield told
