"""`liveact bench load`: what becomes of more sessions than can be carried, on a simulated device or by a running service."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from liveact_services.cli import options, serve
from liveact_services.cli.bench.graph import clip
from liveact_services.cli.demo import EXAMPLES
from liveact_services.cli.exits import BadInput, CheckFailed
from liveact_services.cli.output import Output, note, reserved_stdout

if TYPE_CHECKING:
    from rich.table import Table

    from liveact_services.cli.bench.load.live import LiveTable

LOADS = (1.0, 2.0, 4.0)
SIMULATED_S = 240.0
"""Shorter simulated rows see too few sessions."""
OWN = ("sessions.max_sessions=4",)
"""Of a service on this machine, where all stages share the cores: the Denoiser's device, which the admission measures, is not
what gets scarce first."""


def load(
    seconds: Annotated[
        float | None, typer.Option(help="Time of each row; 600, of which none passes, or 120 with --live.", min=10)
    ] = None,
    seed: Annotated[int, typer.Option(help="Fixes arrivals, lengths and the device's jitter.", min=0)] = 1,
    max_utilisation: Annotated[
        float | None, typer.Option(help="Bound of the admission; sessions.max_utilisation by default.", min=0.1, max=4)
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Real sessions in real time, through a service of its own.")
    ] = False,
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Real sessions through the service there.")
    ] = None,
    token: options.Token = None,
    length: Annotated[float, typer.Option(help="Voice of each real session, in seconds.", min=5, max=30)] = 15.0,
    size: options.Size = "32x32",
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """The admission at 1, 2 and 4 times what can be carried: blocks in time, refusals, and whether times told are right.

    On a simulated clock and device by default, where fairness between tenants is seen too; with --live or --address by real
    clients. Exits with 1 when fewer than 99 % of the blocks of admitted sessions are in time, fewer than 90 % of the times
    told are right, or shares are unfair.
    """
    if live or address is not None:
        if max_utilisation is not None:
            settings = [*(settings or []), f"sessions.max_utilisation={max_utilisation}"]
        if address is not None and settings:
            raise BadInput("--set and --max-utilisation change a service of this command's own: not one at --address")
        with reserved_stdout() as stdout:
            _finish(Output(json, stdout=stdout), _live(address, token, seconds or 120.0, seed, length, size, settings))
        return
    from liveact_services.cli.bench.load.simulated import measure

    if seconds is not None and seconds < SIMULATED_S:
        raise typer.BadParameter(
            f"{seconds:g}: a simulated row lasts at least {SIMULATED_S:g} s", param_hint="--seconds"
        )
    _finish(Output(json), measure(seconds or 600.0, seed, max_utilisation))


class _Result(Protocol):
    @property
    def failures(self) -> list[str]: ...
    def tables(self) -> list[Table]: ...
    def to_dict(self) -> dict[str, object]: ...


def _finish(output: Output, table: _Result) -> None:
    output.show(*table.tables())
    output.result(table.to_dict())
    if table.failures:
        raise CheckFailed("; ".join(table.failures))


def _live(
    address: str | None,
    token: str | None,
    seconds: float,
    seed: int,
    length: float,
    size: str | None,
    settings: list[str] | None,
) -> LiveTable:
    from liveact_services.cli.bench.load.live import FILL_LENGTHS, LONGEST, measure
    from liveact_services.cli.bench.load.offer import Offer

    if not EXAMPLES.is_dir():
        raise BadInput(f"{EXAMPLES} is not there: run this from a checkout of the repository")
    width, height = options.parse_size(size)
    offer = Offer((EXAMPLES / "portrait.jpg").read_bytes(), clip(LONGEST * length), width, height, token)
    minutes = (len(LOADS) * (seconds + 2 * length) + (FILL_LENGTHS + 1) * length) / 60
    note(f"sessions of {length:g} s at {', '.join(f'{one:g}x' for one in LOADS)}: about {minutes:.0f} minutes")
    if address is not None:
        return asyncio.run(measure(address, offer, LOADS, seconds, seed))
    note(f"the service runs with {' '.join(OWN)}")
    with serve.own_service(None, [*OWN, *(settings or [])], preset=None, checkpoint=None) as service:
        return asyncio.run(measure(service.address, offer, LOADS, seconds, seed))
