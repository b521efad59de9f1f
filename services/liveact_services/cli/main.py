"""`liveact`: the commands, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from liveact_services.cli import (
    audit,
    bench,
    calibrate,
    cluster,
    config,
    demo,
    doctor,
    drain,
    evaluate,
    exits,
    parity,
    render,
    serve,
    stream,
    tenants,
    trace,
    train,
    verify,
    webrtc,
    weights,
)
from liveact_services.cli.output import note, print_json


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        # Parsing the subcommand consumes the arguments.
        as_json = "--json" in (*ctx._protected_args, *ctx.args)
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.TyperException):
            raise
        except Exception as error:
            code, line = exits.explain(error)
            if ctx.params.get("debug"):
                traceback.print_exc()
            note(f"liveact: {line}")
            # A failed check has printed its result, which is to stay the last line.
            if as_json and code is not exits.ExitCode.CHECK_FAILED:
                reason = getattr(error, "reason", "") or code.name
                print_json({"error": {"exit_code": int(code), "reason": reason, "message": line}})
            raise typer.Exit(code) from None


app = typer.Typer(
    name="liveact",
    cls=_Commands,
    help="A portrait and a voice in, a talking video out, live.",
    epilog=exits.HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"liveact {version('liveact-serve')}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version.")
    ] = False,
) -> None:
    pass


app.command()(serve.serve)
app.command()(stream.stream)
app.command()(render.render)
app.command()(demo.demo)
app.command()(parity.parity)
app.command()(doctor.doctor)
app.command()(calibrate.calibrate)
app.command()(drain.drain)
app.command()(audit.audit)
app.command()(trace.trace)
app.command()(verify.verify)
app.command()(webrtc.webrtc)
app.add_typer(train.app, name="train")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(cluster.app, name="cluster")
app.add_typer(tenants.app, name="tenants")
app.add_typer(weights.app, name="weights")
app.add_typer(config.app, name="config")
app.add_typer(bench.app, name="bench")


def main() -> None:
    """The entry point of the `liveact` script."""
    app()


if __name__ == "__main__":
    main()
