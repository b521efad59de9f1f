"""`liveact train`: the stages of training, one by one or all, and how far they are."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from liveact_models.training.stages import ABOUT, STAGES
from liveact_services.cli import options
from liveact_services.cli.exits import BadInput, CheckFailed, ExitCode, Unavailable
from liveact_services.cli.output import Output, note, reserved_stdout
from liveact_services.cli.serve import stop_on_signal

if TYPE_CHECKING:
    from liveact_models.training.recipe import Recipe
    from liveact_models.training.run_folder import RunFolder, Status
    from liveact_services.training import LocalTrainer, RayTrainer

RUNS = Path("out/train")
LINE_EVERY_S = 30.0
"""Between lines of progress where no terminal draws a bar."""


class _Stages(TyperGroup):
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            accepted = ", ".join(("all", "status", *STAGES))
            raise typer.BadParameter(f"{args[0]!r} is unknown; accepted are {accepted}", param_hint="STAGE")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Stages, no_args_is_help=True,
    help="Train the model: `all`, or one stage after another. What was stopped, or killed, goes on where it was.",
)  # fmt: skip

Preset = Annotated[str, typer.Option(help="The recipes: tiny, or smoke, which takes minutes.")]
Run = Annotated[
    Path | None, typer.Option("--run", metavar="DIR", help="The run's folder; out/train/PRESET if not given.")
]
WorkerCount = Annotated[int, typer.Option(min=1, help="Processes that train together; one a GPU where there are GPUs.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of each worker.")]
Local = Annotated[bool, typer.Option("--local", help="Train in this process, without Ray.")]


def one(
    ctx: typer.Context,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", metavar="FILE", help="A recipe (YAML) in place of the preset's.")
    ] = None,
    preset: Preset = "tiny",
    run: Run = None,
    workers: WorkerCount = 1,
    threads: Threads = None,
    local: Local = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start the stage over; its checkpoints are removed.")] = False,
    json: options.Json = False,
) -> None:
    """Train one stage; the stages before it must have finished."""
    from liveact_models.training.recipe import load_recipe, shipped_recipe

    stage = str(ctx.info_name)
    with _as_exit_codes():
        chosen = shipped_recipe(preset, stage) if recipe is None else load_recipe(recipe)
        # A class of the user's own may stand in for any stage.
        if chosen.stage != stage and chosen.stage in STAGES:
            raise BadInput(f"{recipe} is a recipe of {chosen.stage}, not of {stage}")
        folder = _folder(run, chosen.preset)
        if fresh:
            with folder.locked(chosen.name, patience_s=0):
                folder.forget(chosen.name)
        again = f"liveact train {stage}" + (f" --recipe {recipe}" if recipe else f" --preset {preset}")
        _train([chosen], folder, again, workers, threads, local, Output(json, stdout=sys.stdout))


for _name, _about in ABOUT.items():
    app.command(_name, help=f"Train one stage: {_about}.")(one)


@app.command("all")
def every(
    preset: Preset = "tiny",
    run: Run = None,
    workers: WorkerCount = 1,
    threads: Threads = None,
    local: Local = False,
    json: options.Json = False,
) -> None:
    """Train every stage in order; those that have finished are passed over."""
    from liveact_models.training.recipe import shipped_recipe

    with _as_exit_codes():
        recipes = [shipped_recipe(preset, stage) for stage in STAGES]
        again = f"liveact train all --preset {preset}"
        _train(recipes, _folder(run, preset), again, workers, threads, local, Output(json, stdout=sys.stdout))


@app.command()
def status(preset: Preset = "tiny", run: Run = None, json: options.Json = False) -> None:
    """Show how far each stage of a run is."""
    from rich.table import Table

    with _as_exit_codes():
        folder = _folder(run, preset)
        if folder.begun_with() is None:
            raise BadInput(f"{folder.path} is no run folder: name one with --run")
        found = {stage: _state(folder, stage) for stage in (*STAGES, *folder.stages_beside(STAGES))}
    table = Table("stage", "state", "step", "loss", "steps/s", "last checkpoint", "products", title=str(folder.path))
    table.title_justify = "left"
    for stage, now in found.items():
        table.add_row(stage, *(_row(now) if now else ["not begun"]))
    output = Output(json)
    output.show(table)
    stages = {stage: asdict(now) if now else None for stage, now in found.items()}
    output.result({"run": str(folder.path), "preset": folder.begun_with(), "stages": stages})


def _train(
    recipes: Sequence[Recipe],
    run: RunFolder,
    again: str,
    workers: int,
    threads: int | None,
    local: bool,
    output: Output,
) -> None:
    from liveact_services.training import LocalTrainer, RayTrainer

    for recipe in recipes:
        run.check(recipe)
    todo = [recipe for recipe in recipes if not _finished(run, recipe)]
    _announce(recipes, run)
    ended: Status | None = None
    if todo:
        with reserved_stdout(), _stoppable() as stopped:
            trainer: LocalTrainer | RayTrainer = LocalTrainer(threads) if local else RayTrainer(workers, threads, note)
            with trainer:
                for recipe in todo:
                    ended = _train_one(trainer, recipe, run, stopped)
                    if ended.state == "interrupted":
                        break
    statuses = {recipe.name: run.status(recipe.name) for recipe in recipes}
    output.result({"run": str(run.path), "stages": {name: asdict(s) if s else None for name, s in statuses.items()}})
    if ended is not None and ended.state == "interrupted":
        note(f"stopped after step {ended.step} of {ended.stage}; go on with: {again} --run {run.path}")
        raise typer.Exit(ExitCode.INTERRUPTED)


def _train_one(
    trainer: LocalTrainer | RayTrainer, recipe: Recipe, run: RunFolder, stopped: Callable[[], bool]
) -> Status:
    with _progress(recipe) as report:
        ended = trainer.train(recipe, run, report, stopped)
    loss = f", loss {ended.loss:.4g}" if ended.loss is not None else ""
    made = f"; wrote {', '.join(ended.products)}" if ended.products else ""
    if ended.state == "finished":
        note(f"{recipe.name}: finished {ended.steps} steps in {_span(ended.seconds)}{loss}{made}")
    return ended


@contextmanager
def _as_exit_codes() -> Iterator[None]:
    """Training's errors as those of the command line, which have exit codes."""
    from liveact_models.training import MissingExtra, TrainingError
    from liveact_models.training.checkpoints import CheckpointWriteError
    from liveact_models.training.loop import Diverged

    try:
        yield
    except Diverged as error:
        raise CheckFailed(str(error)) from error
    except (CheckpointWriteError, MissingExtra) as error:
        raise Unavailable(str(error)) from error
    except TrainingError as error:
        raise BadInput(str(error)) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Unavailable(f"{error.filename or 'the disk'}: {error.strerror}") from error
    except RuntimeError as error:
        services = sys.modules.get("liveact_services.training")
        if services is not None and isinstance(error, services.TrainingUnavailable):
            raise Unavailable(str(error)) from error
        raise


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """Within: whether SIGINT or SIGTERM has come; a second one ends the process the hard way."""
    import signal

    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stopped = stop_on_signal()
    said = False

    def asked() -> bool:
        nonlocal said
        if stopped.is_set() and not said:
            note(
                "stopping: the step is finished and a checkpoint written; a second signal loses the steps since the last"
            )
            said = True
        return stopped.is_set()

    try:
        yield asked
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextmanager
def _progress(recipe: Recipe) -> Iterator[Callable[[Status], None]]:
    """A bar on a terminal, a line now and then elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from liveact_services.cli.output import stderr_console

    console = stderr_console()
    if not console.is_terminal:
        yield _Lines()
        return
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[what]}"),
        console=console, transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task(recipe.name, total=recipe.steps, what="starting")
        yield lambda status: bar.update(task, completed=status.step, what=_figures(status))


class _Lines:
    def __init__(self) -> None:
        self._said = 0.0

    def __call__(self, status: Status) -> None:
        if time.monotonic() - self._said >= LINE_EVERY_S:
            self._said = time.monotonic()
            note(f"{status.stage}: step {status.step} of {status.steps}  {_figures(status)}")


def _announce(recipes: Sequence[Recipe], run: RunFolder) -> None:
    """Say what is about to be done, on stderr."""
    from rich.table import Table

    from liveact_services.cli.output import stderr_console

    table = Table("stage", "what it makes", "steps", "batch", "time", title=f"training in {run.path}")
    table.title_justify = "left"
    known = 0.0
    guessed = False
    for recipe in recipes:
        seconds, measured = _estimate(run, recipe)
        now = run.status(recipe.name)
        left = _left(now, recipe)
        if _finished(run, recipe):
            time_, steps = "finished", f"{recipe.steps}"
        else:
            time_ = "not measured yet" if seconds is None else f"about {_span(seconds)}{measured}"
            steps = f"{left} of {recipe.steps}" if left < recipe.steps else f"{recipe.steps}"
            known += seconds or 0.0
            guessed |= seconds is None
        table.add_row(recipe.name, ABOUT.get(recipe.stage, recipe.stage), steps, str(recipe.batch), time_)
    stderr_console().print(table)
    if len(recipes) > 1 and known:
        note(
            f"about {_span(known)} in all{', and what is not measured yet' * guessed}; stop with Ctrl-C and go on later"
        )


def _estimate(run: RunFolder, recipe: Recipe) -> tuple[float | None, str]:
    """Seconds still to go and where the speed comes from; None where nobody has measured it."""
    now = run.status(recipe.name)
    if now is not None and now.steps_per_s:
        return _left(now, recipe) / now.steps_per_s, ", at the speed measured here"
    if recipe.minutes:
        return 60 * recipe.minutes, " on two CPU cores"
    return None, ""


def _left(now: Status | None, recipe: Recipe) -> int:
    """Steps after the newest checkpoint: what a killed run did beyond it is done again."""
    return recipe.steps - ((now.checkpoint_step or 0) if now else 0)


def _folder(run: Path | None, preset: str) -> RunFolder:
    from liveact_models.training.run_folder import RunFolder

    return RunFolder(RUNS / preset if run is None else run)


def _finished(run: RunFolder, recipe: Recipe) -> bool:
    now = run.status(recipe.name)
    return now is not None and now.state == "finished"


def _state(run: RunFolder, stage: str) -> Status | None:
    """The stage's status; one that says "running" while nobody trains it was killed."""
    from dataclasses import replace

    now = run.status(stage)
    if now is not None and now.state == "running" and not run.busy(stage):
        return replace(now, state="killed")
    return now


def _row(now: Status) -> list[str]:
    kept = "-"
    if now.checkpoint_step is not None and now.checkpoint_time is not None:
        kept = f"step {now.checkpoint_step}, {_span(time.time() - now.checkpoint_time)} ago"
    return [
        now.state, f"{now.step}/{now.steps}", "-" if now.loss is None else f"{now.loss:.4g}",
        f"{now.steps_per_s:.3g}" if now.steps_per_s else "-", kept, ", ".join(now.products) or "-",
    ]  # fmt: skip


def _figures(status: Status) -> str:
    parts = [] if status.loss is None else [f"loss {status.loss:.4g}"]
    if status.steps_per_s:
        parts.append(f"{status.steps_per_s:.3g} steps/s")
    if status.seconds_left:
        parts.append(f"{_span(status.seconds_left)} left")
    return "  ".join(parts)


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
