"""`liveact evaluate`: what the model's pictures show, measured against rendered truth."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liveact_services.cli import options
from liveact_services.cli.bench.machine import hardware
from liveact_services.cli.exits import BadInput, CheckFailed
from liveact_services.cli.output import Output, note, stderr_console
from liveact_services.cli.render import load_pipeline

if TYPE_CHECKING:
    from rich.table import Table

    from liveact_models.config import SamplingConfig
    from liveact_models.evaluate.contenders import Contender
    from liveact_models.evaluate.judge_score import JudgeScore
    from liveact_models.evaluate.suites import Progress, Row, Script, SuiteResult
    from liveact_models.pipeline import Pipeline
    from liveact_services.config import ServiceConfig

app = typer.Typer(help="How well the model speaks, lasts and obeys; each takes --json.", no_args_is_help=True)

JUDGE_MINIMUM = 0.98
"""Correlation of the opening that a judge must reach on rendered frames to judge others."""

Out = Annotated[Path, typer.Option(help="Folder for the figures (JSON) and pictures.")]
Threads = Annotated[int, typer.Option(min=1, help="Torch threads.")]
Clips = Annotated[int, typer.Option(min=1, help="Held-out sentences, each with another unseen person.")]
Blocks = Annotated[int, typer.Option(min=1, help="Length of a sentence's clip in blocks.")]
PictureSize = Annotated[int, typer.Option("--size", help="Side of the picture in pixels.")]
FirstSeed = Annotated[int, typer.Option("--seed", min=0, help="Of the first test clip.")]
ManySteps = Annotated[int, typer.Option("--many-steps", min=0, help="Also with so many Euler steps; 0: not.")]
Against = Annotated[
    list[str] | None,
    typer.Option(
        "--against",
        metavar="NAME=CHECKPOINT[,KEY=VALUE...]",
        help="Another model beside it; no CHECKPOINT: the same weights. Keys: steps (Euler), or a field of the sampling "
        "as memory=mean.",
    ),
]


@app.callback()
def _group() -> None:
    pass


@app.command()
def lips(
    clips: Clips = 30,
    blocks: Blocks = 4,
    many_steps: ManySteps = 24,
    against: Against = None,
    phonemes: Annotated[bool, typer.Option(help="Let hama judge too (extra `train`).")] = True,
    size: PictureSize = 128,
    seed: FirstSeed = 9000,
    out: Out = Path("out/evaluate"),
    threads: Threads = 2,
    config: options.ConfigFile = None,
    preset: options.Preset = None,
    checkpoint: options.Checkpoint = None,
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """Mouths against truth: trained and held-out voices, the autoencoder alone, many steps, a wrong voice."""
    from liveact_models.evaluate.contenders import Autoencoder
    from liveact_models.evaluate.judge import shipped_judge
    from liveact_models.evaluate.suites import lips_suite

    models = _Models(config, settings, preset, checkpoint, threads)
    contenders = [models.own(), *([models.own(steps=many_steps)] if many_steps else []), *models.others(against)]
    with _progress() as progress:
        result = lips_suite(
            contenders, voice_groups(), _script(clips, blocks, size, seed), shipped_judge(), out,
            autoencoder=Autoencoder(models.pipeline), phonemes=phonemes, progress=progress,
        )  # fmt: skip
    _finish(result, out, json)


@app.command()
def steps(
    clips: Clips = 30,
    blocks: Blocks = 4,
    many_steps: ManySteps = 24,
    teacher: Annotated[str, typer.Option(help="Checkpoint of the teacher; by default the same weights.")] = "",
    against: Against = None,
    size: PictureSize = 128,
    seed: FirstSeed = 9000,
    out: Out = Path("out/evaluate"),
    threads: Threads = 2,
    config: options.ConfigFile = None,
    preset: options.Preset = None,
    checkpoint: options.Checkpoint = None,
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """The student of few steps against its teacher of many: lips, Fréchet distance, sharpness."""
    from liveact_models.evaluate.judge import shipped_judge
    from liveact_models.evaluate.suites import lips_suite

    models = _Models(config, settings, preset, checkpoint, threads)
    asked = [*([f"teacher, {many_steps} steps={teacher},steps={many_steps}"] if many_steps else []), *(against or [])]
    with _progress() as progress:
        result = lips_suite(
            [models.own(), *models.others(asked)], {"trained": (None,)}, _script(clips, blocks, size, seed),
            shipped_judge(), out, name="steps", wrong_voice=False, phonemes=False, progress=progress,
        )  # fmt: skip
    _finish(result, out, json)


@app.command()
def drift(
    minutes: Annotated[float, typer.Option(min=0.1, help="Length of the video.")] = 10.0,
    contrast: Annotated[bool, typer.Option(help="Also with the memory switched off.")] = True,
    against: Against = None,
    size: PictureSize = 128,
    seed: FirstSeed = 9000,
    out: Out = Path("out/evaluate"),
    threads: Threads = 2,
    config: options.ConfigFile = None,
    preset: options.Preset = None,
    checkpoint: options.Checkpoint = None,
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """One long video: how far face and background move away from the portrait, minute by minute, with a plot."""
    from liveact_models.evaluate.drift import SECONDS
    from liveact_models.evaluate.judge import shipped_judge
    from liveact_models.evaluate.suites import drift_suite

    models = _Models(config, settings, preset, checkpoint, threads)
    asked = [*(["memory off=,memory=none"] if contrast else []), *(against or [])]
    with _progress() as progress:
        result = drift_suite(
            [models.own(), *models.others(asked)], minutes, shipped_judge(), out, size=size, seed=seed,
            window_s=min(SECONDS, minutes * SECONDS / 4), progress=progress,
        )  # fmt: skip
    _finish(result, out, json)


@app.command()
def prompts(
    clips: Annotated[int, typer.Option(min=1, help="Clips for every emotion and action.")] = 8,
    against: Against = None,
    size: PictureSize = 128,
    seed: FirstSeed = 9000,
    out: Out = Path("out/evaluate"),
    threads: Threads = 2,
    config: options.ConfigFile = None,
    preset: options.Preset = None,
    checkpoint: options.Checkpoint = None,
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """Emotions and actions asked for: seen within two blocks or not, and what becomes of the lips meanwhile."""
    from liveact_models.evaluate.judge import shipped_judge
    from liveact_models.evaluate.suites import prompts_suite

    models = _Models(config, settings, preset, checkpoint, threads)
    contenders = [models.own(), *models.others(against)]
    with _progress() as progress:
        result = prompts_suite(contenders, clips, shipped_judge(), out, size=size, seed=seed, progress=progress)
    _finish(result, out, json)


@app.command()
def published(
    weights: Annotated[
        Path, typer.Option(help="Folder with syncnet_v2.model, inception*.pt (TorchScript), i3d*.pt (TorchScript).")
    ],
    videos: Annotated[
        list[Path] | None, typer.Option("--video", help="A video file to judge; none: the model's own of test clips.")
    ] = None,
    truth: Annotated[list[Path] | None, typer.Option(help="A real video to compare the video files with.")] = None,
    clips: Clips = 30,
    blocks: Blocks = 4,
    against: Against = None,
    size: PictureSize = 128,
    seed: FirstSeed = 9000,
    out: Out = Path("out/evaluate"),
    threads: Threads = 2,
    config: options.ConfigFile = None,
    preset: options.Preset = None,
    checkpoint: options.Checkpoint = None,
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """Sync-C, Sync-D, FID and FVD by published networks, whose weights you supply; says what is missing."""
    from liveact_models.evaluate.published import PublishedNetworks
    from liveact_models.evaluate.suites import published_suite, scenes
    from liveact_models.evaluate.suites.published import file_collection, scene_collections

    if truth and not videos:
        raise typer.BadParameter("real videos need video files to be compared with them", param_hint="--truth")
    networks = PublishedNetworks.load(weights)
    for line in networks.missing:
        note(line)
    if videos:
        real = file_collection("truth", truth) if truth else None
        collections = [file_collection("videos", videos)]
        judged: dict[str, object] = {"videos": [str(path) for path in videos], "truth": [str(p) for p in truth or []]}
    else:
        models = _Models(config, settings, preset, checkpoint, threads)
        script = _script(clips, blocks, size, seed)
        contenders = [models.own(), *models.others(against)]
        real, collections, judged = scene_collections(contenders, scenes(script), script)
    with _progress() as progress:
        result = published_suite(networks, real, collections, judged, progress)
    _finish(result, out, json)


@app.command()
def judge(
    train: Annotated[bool, typer.Option("--train", help="Make the judge anew; minutes on one core.")] = False,
    path: Annotated[Path | None, typer.Option("--file", help="The judge's file; by default the shipped one.")] = None,
    people: Annotated[int, typer.Option(min=2, help="Unseen rendered people it is tried on.")] = 40,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps.")] = None,
    threads: Threads = 2,
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
        with _progress() as progress:
            train_judge(recipe, report=progress).save(file)
        note(f"written to {file}, {file.stat().st_size / 1e3:.0f} kB")
    score = score_judge(Judge.load(file), people)
    output = Output(json)
    output.show(_judge_table(score))
    output.result(dataclasses.asdict(score) | {"file": str(file), "hardware": hardware()})
    if not score.mouth["open"].r >= JUDGE_MINIMUM:
        raise CheckFailed(f"the judge reads the opening with r {score.mouth['open'].r:.3f}; it must be {JUDGE_MINIMUM}")


def voice_groups() -> dict[str, tuple[str | None, ...]]:
    """Trained voices, any of them, then the held-out ones by engine."""
    from liveact_models.world.voices import voices

    groups: dict[str, tuple[str | None, ...]] = {"trained": (None,)}
    for voice in voices("held-out"):
        engine = f"held-out {type(voice).__module__.rpartition('.')[2]}"
        groups[engine] = (*groups.get(engine, ()), voice.name)
    return groups


class _Models:
    """The model that was asked for and those it is compared with, each checkpoint loaded once."""

    def __init__(
        self, file: Path | None, settings: list[str] | None, preset: str | None, checkpoint: str | None, threads: int
    ) -> None:
        self._config = options.effective_config(file, settings, preset=preset, checkpoint=checkpoint)
        self._threads = threads
        self._loaded: dict[str, Pipeline] = {}

    @property
    def pipeline(self) -> Pipeline:
        return self._load(self._config)

    def own(self, steps: int | None = None) -> Contender:
        """The model itself; with other than its own number of steps, Euler ones."""
        from liveact_models.evaluate.contenders import Model, many_steps

        sampling = self.pipeline.denoiser.sampling
        if steps is not None:
            sampling = many_steps(sampling, steps)
        return Model(f"{self._config.preset}, {sampling.num_steps} steps", self.pipeline, sampling)

    def others(self, specs: Sequence[str] | None) -> list[Contender]:
        """Those of `--against`."""
        from liveact_models.evaluate.contenders import Model

        made: list[Contender] = []
        for spec in specs or ():
            name, checkpoint, changes = parse_against(spec)
            chosen = self._config.model_copy(update={"checkpoint": checkpoint}) if checkpoint else self._config
            pipeline = self._load(chosen)
            made.append(Model(name, pipeline, _changed(pipeline.denoiser.sampling, changes, spec)))
        return made

    def _load(self, config: ServiceConfig) -> Pipeline:
        if config.checkpoint not in self._loaded:
            note(f"loading {config.preset}, checkpoint {config.checkpoint}")
            self._loaded[config.checkpoint] = load_pipeline(config, self._threads)
        return self._loaded[config.checkpoint]


def parse_against(spec: str) -> tuple[str, str, dict[str, Any]]:
    """ "teacher=runs/a,steps=24" -> ("teacher", "runs/a", {"steps": 24}). Raises `typer.BadParameter`."""
    import yaml

    # The name may hold anything but an equals sign.
    name, separator, rest = spec.partition("=")
    checkpoint, *parts = rest.split(",")
    pairs = [part.partition("=") for part in parts]
    if not (name and separator) or not all(key and equals and value for key, equals, value in pairs):
        raise typer.BadParameter(f"{spec!r}: expected NAME=CHECKPOINT[,KEY=VALUE...]", param_hint="--against")
    return name, checkpoint, {key: yaml.safe_load(value) for key, _, value in pairs}


def _changed(sampling: SamplingConfig, changes: dict[str, Any], spec: str) -> SamplingConfig:
    from liveact_models.evaluate.contenders import many_steps

    steps = changes.pop("steps", None)
    known = {field.name for field in dataclasses.fields(sampling)}
    unknown = sorted(changes.keys() - known)
    if unknown or not (steps is None or isinstance(steps, int)):
        accepted = ", ".join(("steps", *sorted(known)))
        raise BadInput(f"--against {spec}: {unknown[0] if unknown else f'steps={steps}'}: accepted are {accepted}")
    sampling = dataclasses.replace(sampling, **changes)
    return sampling if steps is None else many_steps(sampling, steps)


def _script(clips: int, blocks: int, size: int, seed: int) -> Script:
    from liveact_models.evaluate.suites import Script

    return Script(count=clips, blocks=blocks, size=size, first_seed=seed)


def _finish(result: SuiteResult, out: Path, json: bool) -> None:
    """Write and show what was measured."""
    command = shlex.join(["liveact", *sys.argv[1:]])
    path = result.write(out, command, hardware())
    output = Output(json)
    output.show(_table(result), *(f"drawn in {picture}" for picture in result.pictures), f"written to {path}")
    output.result(result.to_dict(command, hardware()) | {"file": str(path)})


def _table(result: SuiteResult) -> Table:
    from rich.table import Table

    columns = list(dict.fromkeys(name for row in result.rows for name in row))
    table = Table(title=f"liveact evaluate {result.suite}", title_justify="left")
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in result.rows:
        table.add_row(*(_cell(row, name) for name in columns))
    return table


def _cell(row: Row, name: str) -> str:
    value = row.get(name, "-")
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


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


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on stderr that tells who is performing."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, TimeRemainingColumn(), console=stderr_console(), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total or None)
