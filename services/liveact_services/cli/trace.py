"""`liveact trace`: one block's way through every stage, as a tree, from the spans that a service wrote into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liveact_services.cli import options
from liveact_services.cli.exits import BadInput
from liveact_services.cli.output import Output

if TYPE_CHECKING:
    from rich.tree import Tree

    from liveact_services.observability.spans import Spent


def trace(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The service's telemetry.trace_dir.")],
    block: Annotated[
        int | None, typer.Option(min=0, help="Which block of the session; without it, the fullest of the latest trace.")
    ] = None,
    session: Annotated[str | None, typer.Option(metavar="ID", help="Of which session; without it, the latest.")] = None,
    trace_id: Annotated[str | None, typer.Option(metavar="ID", help="Of which trace; without it, the latest.")] = None,
    opening: Annotated[bool, typer.Option("--opening", help="Show how the session was opened, too.")] = False,
    json: options.Json = False,
) -> None:
    """Show where one block's time went: every stage, step and export with its beginning and its length."""
    from liveact_services.observability.spans import blocks_of, read_spans

    if not folder.is_dir():
        raise BadInput(f"{folder}: not a folder; accepted is the service's telemetry.trace_dir")
    spans = read_spans(folder)
    found = blocks_of(spans, trace_id, session)
    if not found:
        raise BadInput(f"{folder}: no block of such a session or trace is there")
    latest = [one for one in found if one.trace == found[-1].trace]
    chosen = _fullest(latest) if block is None else _numbered(latest, block)
    output = Output(json)
    if opening:
        output.show(_tree("the session's opening", _opening(spans, chosen.trace)))
    about = chosen.attributes
    output.show(_tree(f"block {about['block']} of session {about['session']}, trace {chosen.trace}", [chosen]))
    output.result(_dict(chosen, chosen.began_s))


def _fullest(blocks: list[Spent]) -> Spent:
    """One that was exported, if there is one: it shows the way to the Vault as well."""
    return max(blocks, key=lambda one: len(list(one.walk())))


def _numbered(blocks: list[Spent], block: int) -> Spent:
    """Raises `BadInput` where the trace has no such block."""
    for one in blocks:
        if one.attributes["block"] == block:
            return one
    there = ", ".join(str(one.attributes["block"]) for one in blocks)
    raise BadInput(f"block {block} is not in trace {blocks[0].trace}: there are {there}")


def _opening(spans: list[Spent], trace: str) -> list[Spent]:
    """What was done once, before the session's first block."""
    once = [one for one in spans if one.trace == trace and one.name in ("portrait", "admit", "place")]
    return sorted(once, key=lambda one: one.began_s)


def _tree(title: str, spans: list[Spent]) -> Tree:
    from rich.tree import Tree

    top = Tree(title, highlight=False)
    for span in spans:
        _grow(top, span, spans[0].began_s)
    return top


def _grow(tree: Tree, span: Spent, zero_s: float) -> None:
    from rich.markup import escape

    details = " ".join(f"{name}={_short(value)}" for name, value in span.attributes.items() if name != "session")
    failed = f" [red]{escape(span.error)}[/red]" if span.error else ""
    times = f"[dim]at {1000 * (span.began_s - zero_s):.1f} ms[/dim]  [bold]{1000 * span.seconds:.1f} ms[/bold]"
    branch = tree.add(f"{escape(span.service)} {escape(span.name)}  {times}  [dim]{escape(details)}[/dim]{failed}")
    for child in span.children:
        _grow(branch, child, zero_s)


def _short(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _dict(span: Spent, zero_s: float) -> dict[str, Any]:
    return {
        "service": span.service, "name": span.name, "at_ms": round(1000 * (span.began_s - zero_s), 3),
        "ms": round(1000 * span.seconds, 3), "error": span.error, **span.attributes,
        "children": [_dict(child, zero_s) for child in span.children],
    }  # fmt: skip
