"""`liveact config show`: the configuration that would be used, and nothing secret."""

from __future__ import annotations

import typer

from liveact_services.cli import options
from liveact_services.cli.output import Output

app = typer.Typer(help="The configuration: file < environment (LIVEACT_...) < command line.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def show(config: options.ConfigFile = None, settings: options.Settings = None, json: options.Json = False) -> None:
    """Print the effective configuration as YAML; passwords are hidden."""
    import yaml

    values = options.effective_config(config, settings).model_dump(mode="json")
    if values["redis_url"] is not None:
        values["redis_url"] = options.hide_password(values["redis_url"])
    output = Output(json)
    output.show(yaml.safe_dump(values, sort_keys=False).rstrip())
    output.result(values)
