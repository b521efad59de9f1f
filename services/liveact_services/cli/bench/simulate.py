"""`liveact bench simulate`: placement, admission and autoscaling of a large fleet, on a simulated clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liveact_services.cli import options
from liveact_services.cli.exits import BadInput
from liveact_services.cli.output import Output, note

if TYPE_CHECKING:
    from rich.table import Table

SIZES = (100, 1_000, 10_000)


def simulate(
    replicas: Annotated[
        list[int] | None,
        typer.Option(help="Most replicas of a fleet; may be said again. Default: 100, 1,000, 10,000.", min=1),
    ] = None,
    sessions: Annotated[int | None, typer.Option(help="Sessions a day. Default: 100 for each replica.", min=1)] = None,
    hours: Annotated[float, typer.Option(help="How long is simulated.", min=0.5, max=240)] = 24.0,
    seed: options.Seed = 1,
    head_room: Annotated[
        float, typer.Option(help="Room kept free, as a share of what is taken.", min=0, max=4)
    ] = 0.075,
    moves: Annotated[
        bool, typer.Option("--moves/--no-moves", help="Whether sessions move off replicas that are too many.")
    ] = True,
    gathers: Annotated[
        bool, typer.Option("--gathers/--no-gathers", help="Whether small sessions move so that a large one finds room.")
    ] = True,
    quick: Annotated[bool, typer.Option("--quick", help="One fleet of 100, 3 hours: a second.")] = False,
    json: options.Json = False,
) -> None:
    """A day of a fleet: the service's own placement and autoscaling under load, flash crowd, lost and reclaimed nodes.

    Everything but the microseconds of a decision is the same for the same options, on any machine.
    """
    from liveact_models.hardware import hardware
    from liveact_services.simulate.scenario import Scenario, decision_cost

    if quick and replicas:
        raise BadInput("--quick is a fleet of 100: give either it or --replicas")
    sizes = [100] if quick else list(replicas or SIZES)
    hours = min(hours, 3.0) if quick else hours
    fleets: list[dict[str, Any]] = []
    for size in sizes:
        began = time.process_time()
        note(f"{size} replicas, {hours:g} h")
        figures = Scenario(size, sessions, hours, seed, head_room, moves, gathers).run()
        cpu_s = round(time.process_time() - began, 1)
        fleets.append({**figures, "decision": {**decision_cost(size), "simulated_cpu_s": cpu_s}})
    output = Output(json)
    output.show(_table(fleets, hours))
    output.result(
        {
            "fleets": fleets, "hours": hours, "seed": seed, "head_room": head_room, "moves": moves,
            "gathers": gathers, "date": datetime.now(UTC).strftime("%Y-%m-%d"), "hardware": hardware(),
        }
    )  # fmt: skip


def _table(fleets: list[dict[str, Any]], hours: float) -> Table:
    from rich.table import Table

    table = Table("", *(f"{fleet['replicas']:,} replicas" for fleet in fleets), title_justify="left")
    table.title = f"{hours:g} hours, simulated"
    rows = {
        "sessions": "{sessions:,}",
        "most replicas at once": "{most_replicas:,}",
        "utilisation of what was admissible": "{utilisation:.1%}",
        "wait for a place, p95": "{wait_p95_s:.1f} s",
        "wait for a place, p99.9": "{wait_p999_s:.1f} s",
        "replicas asked for a place, mean and p99.9": "{asked_mean:.1f}, {asked_p999}",
        "told times right": "{told_right:.0%} of {told:,}",
        "refused for want of room": "{refused:,} ({refused_share:.2%})",
        "refused by quota": "{refused_by_quota:,}",
        "nodes lost or reclaimed": "{nodes_lost:,}",
        "sessions lost": "{lost:,}",
        "migrations a session-hour": "{migrations_per_session_hour:.3f}",
        "GPU-hours": "{gpu_hours:,.0f}",
        "GPU-hours of the oracle": "{oracle_gpu_hours:,.0f}",
        "ratio": "{gpu_hours_ratio:.3f}",
        "ratio, whole nodes": "{node_gpu_hours_ratio:.3f}",
        "a placement": "{decision[place_us]:.1f} µs",
        "a decision of the policy": "{decision[scale_us]:.1f} µs",
        "the simulation itself, CPU": "{decision[simulated_cpu_s]:.1f} s",
    }
    for name, cell in rows.items():
        table.add_row(name, *(cell.format(**fleet) for fleet in fleets))
    return table
