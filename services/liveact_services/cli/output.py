"""What a command prints: figures and progress for people, one JSON object for scripts."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress


class Output:
    """With `json`, stdout is left to the one object that `result` prints, and people read stderr."""

    def __init__(self, json: bool, *, stdout: TextIO | None = None, people_on_stderr: bool = False) -> None:
        self.json = json
        self._stdout = stdout or sys.stdout
        self._people_on_stderr = json or people_on_stderr

    def show(self, *parts: RenderableType) -> None:
        """A table or a line for people."""
        from rich.console import Console

        console = Console(stderr=True) if self._people_on_stderr else Console(file=self._stdout)
        for part in parts:
            # Bare text may hold brackets that are no markup.
            text = isinstance(part, str)
            console.print(part, soft_wrap=text, markup=not text, highlight=False)

    def result(self, values: dict[str, Any]) -> None:
        """The command's result: with `json`, one line on stdout, the last."""
        if self.json:
            print_json(values, self._stdout)


def print_json(values: dict[str, Any], stdout: TextIO | None = None) -> None:
    """One JSON object on one line; a number that is not finite becomes null, which JSON can say."""
    print(json.dumps(_finite(values), ensure_ascii=False, allow_nan=False), file=stdout or sys.stdout, flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def note(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr, flush=True)


def stderr_console() -> Console:
    """Where progress is drawn."""
    from rich.console import Console

    return Console(stderr=True)


def frame_progress(what: str) -> Progress:
    """A bar over seconds of video on stderr; give `add_task` the total, or None where nobody knows it."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = stderr_console()
    return Progress(
        TextColumn(what), BarColumn(), TextColumn("{task.completed:.1f} s of video, {task.fields[frames]} frames"),
        TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip


@contextmanager
def reserved_stdout() -> Iterator[TextIO]:
    """A stream to stdout that only the caller has: whatever else this process and its children print goes to stderr."""
    try:
        sys.stdout.flush()
        fd = sys.stdout.fileno()
    except (io.UnsupportedOperation, ValueError):
        yield sys.stdout  # replaced in this process already: no child can write to it
        return
    kept = os.dup(fd)
    os.dup2(sys.stderr.fileno(), fd)
    try:
        with os.fdopen(kept, "w", buffering=1, closefd=False) as stream:
            yield stream
    finally:
        sys.stdout.flush()
        os.dup2(kept, fd)
        os.close(kept)
