"""`liveact doctor`: what is there, what is missing and why, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict

from liveact_services.cli import options
from liveact_services.cli.exits import CheckFailed
from liveact_services.cli.output import Output, stderr_console

STYLES = {"ok": "green", "absent": "dim", "warning": "yellow", "failed": "bold red"}


def doctor(
    config: options.ConfigFile = None,
    preset: options.Preset = None,
    checkpoint: options.Checkpoint = None,
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """Look at hardware, backends, codecs, Redis, weights and ports; exit 1 if the service could not run."""
    chosen = options.effective_config(config, settings, preset=preset, checkpoint=checkpoint)
    from rich.markup import escape
    from rich.table import Table

    from liveact_services.cli.check import Found
    from liveact_services.cli.diagnosis import diagnose

    with stderr_console().status("looking around"):
        checks = list(diagnose(chosen))
    table = Table("area", "what", "found", "detail")
    for check in checks:
        fix = f"\n-> {escape(check.fix)}" if check.fix else ""
        style = STYLES[check.found]
        table.add_row(check.area, check.name, f"[{style}]{check.found}[/]", escape(check.detail) + fix)
    failed = [check for check in checks if check.found is Found.FAILED]
    output = Output(json)
    output.show(table)
    output.result({"ok": not failed, "checks": [asdict(check) for check in checks]})
    if failed:
        raise CheckFailed(f"{len(failed)} of {len(checks)} checks failed: {', '.join(check.name for check in failed)}")
