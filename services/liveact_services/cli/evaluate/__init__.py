"""`liveact evaluate`: what the model's pictures show, measured against rendered truth."""

from __future__ import annotations

import typer

from liveact_services.cli.evaluate import forcing, judge, suites

app = typer.Typer(help="How well the model speaks, lasts and obeys; each takes --json.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


app.command()(suites.lips)
app.command()(suites.steps)
app.command()(suites.drift)
app.command()(suites.prompts)
app.command()(forcing.forcing)
app.command()(suites.published)
app.command()(judge.judge)
