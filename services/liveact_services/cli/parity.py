"""`liveact parity`: how far this implementation lies from golden tensors of the official code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from liveact_services.cli import options
from liveact_services.cli.exits import CheckFailed
from liveact_services.cli.output import Output, note


def parity(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder laid out like tests/golden.")],
    json: options.Json = False,
) -> None:
    """Compare every module with golden tensors: relative errors, exit 1 above the threshold."""
    note(f"comparing with {directory}")
    from rich.table import Table

    from liveact_models import parity

    rows = parity.run(directory)
    # Not "above": a NaN is above nothing.
    failed = [row for row in rows if not row.error <= parity.THRESHOLD]
    table = Table("module", "variant", "output", "relative error", "")
    for row in rows:
        table.add_row(row.module, row.variant, row.what, f"{row.error:.1e}", "FAIL" if row in failed else "ok")
    output = Output(json)
    output.show(table)
    output.result(
        {
            "passed": not failed,
            "threshold": parity.THRESHOLD,
            "worst": max((row.error for row in rows), default=None),
            "rows": [
                {"module": row.module, "variant": row.variant, "what": row.what, "error": row.error} for row in rows
            ],
        }
    )
    if failed:
        raise CheckFailed(f"{len(failed)} of {len(rows)} outputs differ by more than {parity.THRESHOLD:g}")
    note(f"all {len(rows)} outputs agree to {parity.THRESHOLD:g}")
