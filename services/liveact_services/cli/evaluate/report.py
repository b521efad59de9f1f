"""How a suite's figures are shown and kept."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from liveact_models.hardware import hardware
from liveact_services.cli.output import Output, stderr_console

if TYPE_CHECKING:
    from rich.table import Table

    from liveact_models.evaluate.suites import Progress, Row, SuiteResult


def finish(result: SuiteResult, out: Path, json: bool) -> None:
    """Write and show what was measured."""
    command = shlex.join(["liveact", *sys.argv[1:]])
    path = result.write(out, command, hardware())
    output = Output(json)
    output.show(*tables(result), *(f"drawn in {picture}" for picture in result.pictures), f"written to {path}")
    output.result(result.to_dict(command, hardware()) | {"file": str(path)})


def tables(result: SuiteResult) -> Iterator[Table]:
    """A table for every group of voices, or the only one; what has more figures than rows stands upright."""
    from rich.table import Table

    for group in dict.fromkeys(row.get("voices") for row in result.rows):
        rows = [row for row in result.rows if row.get("voices") == group]
        names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "voices"]
        lines = [names, *([_cell(row, name) for name in names] for row in rows)]
        if len(names) > len(rows):
            lines = [list(line) for line in zip(*lines, strict=True)]
        table = Table(title=f"{result.suite}: {group} voices" if group else result.suite, title_justify="left")
        for number, head in enumerate(lines[0]):
            table.add_column(head, justify="right" if number else "left")
        for line in lines[1:]:
            table.add_row(*line)
        yield table


def _cell(row: Row, name: str) -> str:
    value = row.get(name, "-")
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on stderr that tells who is performing."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, TimeRemainingColumn(), console=stderr_console(), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total or None)
