"""`liveact evaluate judge`: who judges the judge, and how it is made."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from liveact_models.hardware import hardware
from liveact_services.cli import options
from liveact_services.cli.evaluate.report import progress_bar
from liveact_services.cli.exits import CheckFailed
from liveact_services.cli.output import Output, note

if TYPE_CHECKING:
    from rich.table import Table

    from liveact_models.evaluate.judge_score import JudgeScore

JUDGE_MINIMUM = 0.98
"""Correlation of the opening that a judge must reach on rendered frames to judge others."""


def judge(
    train: Annotated[bool, typer.Option("--train", help="Make the judge anew; minutes on one core.")] = False,
    path: Annotated[Path | None, typer.Option("--file", help="The judge's file; by default the shipped one.")] = None,
    people: Annotated[int, typer.Option(min=2, help="Unseen rendered people it is tried on.")] = 40,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps.")] = None,
    threads: options.Threads = 2,
    json: options.Json = False,
) -> None:
    """How well the judge reads rendered people it has not seen; exit 1 below r 0.98 for the mouth's opening."""
    import torch

    from liveact_models.evaluate.judge import CHECKPOINT, Judge
    from liveact_models.evaluate.judge_score import score_judge
    from liveact_models.evaluate.judge_training import JudgeRecipe, train_judge

    torch.set_num_threads(threads)
    file = path or CHECKPOINT
    if train:
        recipe = JudgeRecipe() if steps is None else JudgeRecipe(steps=steps)
        with progress_bar() as progress:
            train_judge(recipe, report=progress).save(file)
        note(f"written to {file}, {file.stat().st_size / 1e3:.0f} kB")
    score = score_judge(Judge.load(file), people)
    output = Output(json)
    output.show(_judge_table(score))
    output.result(dataclasses.asdict(score) | {"file": str(file), "hardware": hardware()})
    if not score.mouth["open"].r >= JUDGE_MINIMUM:
        raise CheckFailed(f"the judge reads the opening with r {score.mouth['open'].r:.3f}; it must be {JUDGE_MINIMUM}")


def _judge_table(score: JudgeScore) -> Table:
    from rich.table import Table

    table = Table(
        "what it reads", "r", "slope", title=f"the judge on {score.people} unseen rendered people", title_justify="left"
    )
    for name, found in score.mouth.items():
        table.add_row(f"mouth: {name}", f"{found.r:.4f}", f"{found.slope:.3f}")
    for name, r in score.pose.items():
        table.add_row(name, f"{r:.3f}", "")
    table.caption = (
        f"emotions named right {score.emotion:.1%}, actions {score.action:.1%}, people told apart {score.identity:.1%}, "
        f"mouth found to {score.place_error:.1f} pixels of 128"
    )
    return table
