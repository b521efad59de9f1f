"""`liveact bench`: the measurements, one file each."""

from __future__ import annotations

import typer

from liveact_services.cli.bench import (
    block,
    chaos,
    decode,
    denoise,
    e2e,
    exports,
    flops,
    graph,
    load,
    memory,
    precision,
    simulate,
    stream,
    watermark,
)

app = typer.Typer(help="Measurements; each takes --json.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


app.command()(block.block)
app.command()(chaos.chaos)
app.command()(decode.decode)
app.command()(denoise.denoise)
app.command()(e2e.e2e)
app.command()(exports.exports)
app.command()(flops.flops)
app.command()(graph.graph)
app.command()(memory.memory)
app.command()(load.load)
app.command()(precision.precision)
app.command()(simulate.simulate)
app.command()(stream.stream)
app.command()(watermark.watermark)
