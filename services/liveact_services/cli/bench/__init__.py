"""`liveact bench`: the measurements, one file each."""

from __future__ import annotations

import typer

from liveact_services.cli.bench import flops, graph, load, memory

app = typer.Typer(help="Measurements; each takes --json.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


app.command()(flops.flops)
app.command()(graph.graph)
app.command()(memory.memory)
app.command()(load.load)
