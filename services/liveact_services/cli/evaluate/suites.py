"""The suites as commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from liveact_services.cli import options
from liveact_services.cli.evaluate.models import Models, voice_groups
from liveact_services.cli.evaluate.report import finish, progress_bar
from liveact_services.cli.output import note

if TYPE_CHECKING:
    from liveact_models.evaluate.suites import Script

Out = Annotated[Path, typer.Option(help="Folder for the figures (JSON) and pictures.")]
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


def lips(
    clips: Clips = 30,
    blocks: Blocks = 4,
    many_steps: ManySteps = 24,
    against: Against = None,
    voices: Annotated[
        list[Path] | None,
        typer.Option(
            "--voice", help="A voice never trained on: a folder of clips with phone labels, or a Piper .onnx."
        ),
    ] = None,
    phonemes: Annotated[bool, typer.Option(help="Let hama judge too (extra `train`).")] = True,
    size: PictureSize = 128,
    seed: FirstSeed = 9000,
    out: Out = Path("out/evaluate"),
    threads: options.Threads = 2,
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

    models = Models(config, settings, preset, checkpoint, threads)
    contenders = [models.own(), *([models.own(steps=many_steps)] if many_steps else []), *models.others(against)]
    with progress_bar() as progress:
        result = lips_suite(
            contenders, voice_groups(voices or ()), script_of(clips, blocks, size, seed), shipped_judge(), out,
            autoencoder=Autoencoder(models.pipeline), phonemes=phonemes, progress=progress,
        )  # fmt: skip
    finish(result, out, json)


def steps(
    clips: Clips = 30,
    blocks: Blocks = 4,
    many_steps: ManySteps = 24,
    teacher: Annotated[str, typer.Option(help="Checkpoint of the teacher; by default the same weights.")] = "",
    against: Against = None,
    size: PictureSize = 128,
    seed: FirstSeed = 9000,
    out: Out = Path("out/evaluate"),
    threads: options.Threads = 2,
    config: options.ConfigFile = None,
    preset: options.Preset = None,
    checkpoint: options.Checkpoint = None,
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """The student of few steps against its teacher of many: lips, Fréchet distance, sharpness."""
    from liveact_models.evaluate.judge import shipped_judge
    from liveact_models.evaluate.suites import lips_suite

    models = Models(config, settings, preset, checkpoint, threads)
    asked = [*([f"teacher, {many_steps} steps={teacher},steps={many_steps}"] if many_steps else []), *(against or [])]
    with progress_bar() as progress:
        result = lips_suite(
            [models.own(), *models.others(asked)], {"trained": (None,)}, script_of(clips, blocks, size, seed),
            shipped_judge(), out, name="steps", wrong_voice=False, phonemes=False, progress=progress,
        )  # fmt: skip
    finish(result, out, json)


def drift(
    minutes: Annotated[float, typer.Option(min=0.1, help="Length of the video.")] = 10.0,
    contrast: Annotated[bool, typer.Option(help="Also with the memory switched off.")] = True,
    against: Against = None,
    size: PictureSize = 128,
    seed: FirstSeed = 9000,
    out: Out = Path("out/evaluate"),
    threads: options.Threads = 2,
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

    models = Models(config, settings, preset, checkpoint, threads)
    asked = [*(["memory off=,memory=none"] if contrast else []), *(against or [])]
    with progress_bar() as progress:
        result = drift_suite(
            [models.own(), *models.others(asked)], minutes, shipped_judge(), out, size=size, seed=seed,
            window_s=min(SECONDS, minutes * SECONDS / 4), progress=progress,
        )  # fmt: skip
    finish(result, out, json)


def prompts(
    clips: Annotated[int, typer.Option(min=1, help="Clips for every emotion and action.")] = 8,
    against: Against = None,
    size: PictureSize = 128,
    seed: FirstSeed = 9000,
    out: Out = Path("out/evaluate"),
    threads: options.Threads = 2,
    config: options.ConfigFile = None,
    preset: options.Preset = None,
    checkpoint: options.Checkpoint = None,
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """Emotions and actions asked for: seen within two blocks or not, and what becomes of the lips meanwhile."""
    from liveact_models.evaluate.judge import shipped_judge
    from liveact_models.evaluate.suites import prompts_suite

    models = Models(config, settings, preset, checkpoint, threads)
    contenders = [models.own(), *models.others(against)]
    with progress_bar() as progress:
        result = prompts_suite(contenders, clips, shipped_judge(), out, size=size, seed=seed, progress=progress)
    finish(result, out, json)


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
    threads: options.Threads = 2,
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
        models = Models(config, settings, preset, checkpoint, threads)
        script = script_of(clips, blocks, size, seed)
        contenders = [models.own(), *models.others(against)]
        real, collections, judged = scene_collections(contenders, scenes(script), script)
    with progress_bar() as progress:
        result = published_suite(networks, real, collections, judged, progress)
    finish(result, out, json)


def script_of(clips: int, blocks: int, size: int, seed: int) -> Script:
    from liveact_models.evaluate.suites import Script

    return Script(count=clips, blocks=blocks, size=size, first_seed=seed)
