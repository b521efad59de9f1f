"""`liveact weights`: have released weights, look whether they are whole, make them smaller."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liveact_models.disk import GIB
from liveact_services.cli import options
from liveact_services.cli.exits import CheckFailed
from liveact_services.cli.output import Output, note, stderr_console

if TYPE_CHECKING:
    from rich.progress import TaskID
    from rich.table import Table

    from liveact_models.checkpoint.inspect import Inspection
    from liveact_models.weights.hub import Plan
    from liveact_models.weights.manifest import Watch
    from liveact_models.weights.verify import Verdict

app = typer.Typer(help="Weights: fetch, check, convert and show them.", no_args_is_help=True)
DEFAULT_FOLDER = Path("checkpoints")
SHOWN = 20
"""Tensors of a module that are named when they do not fit; --json names all."""

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a checkpoint.")]
AudioEncoder = Annotated[
    Path | None, typer.Option("--audio-encoder", metavar="FOLDER", help="Its wav2vec2 folder, where that is elsewhere.")
]


@app.command()
def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which weights: soulx-liveact.")],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", help="Where to; default: checkpoints/NAME.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="A commit, branch or tag; default: the folder's own, else the one known here.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched, and stop.")] = False,
    json: options.Json = False,
) -> None:
    """Fetch released weights from the Hugging Face hub; what was interrupted goes on. Heeds HF_ENDPOINT and HF_TOKEN."""
    from liveact_models.weights.hub import Hub
    from liveact_models.weights.releases import release

    wanted = release(name)
    folder = to or DEFAULT_FOLDER / name
    hub = Hub()
    with stderr_console().status(f"asking {hub.endpoint}"):
        plan = hub.plan(wanted, folder, revision)
    output = Output(json)
    output.show(_planned(plan))
    plan.require_room()
    if not dry_run:
        with progress(plan.total_bytes - sum(digest.size for digest in plan.done.values()), "fetching") as watch:
            hub.fetch(plan, watch)
        output.show(f"whole, in {folder}: next, liveact weights verify {folder}")
    output.result(
        {
            "release": name, "folder": str(folder), "endpoint": plan.endpoint, "complete": not dry_run,
            "origins": [asdict(origin) for origin in plan.origins], "files": len(plan.files),
            "bytes": plan.total_bytes, "fetched_bytes": 0 if dry_run else plan.missing_bytes,
            "missing_bytes": plan.missing_bytes if dry_run else 0,
        }
    )  # fmt: skip


@app.command()
def verify(
    folder: Folder,
    preset: options.Preset = None,
    audio_encoder: AudioEncoder = None,
    json: options.Json = False,
) -> None:
    """Hash every file against the folder's manifest, and compare every tensor's name and shape; exit 1 if one is wrong."""
    from liveact_models.weights.verify import preset_of
    from liveact_models.weights.verify import verify as check

    with progress(_size(folder), "checking") as watch:
        verdict = check(folder, preset or preset_of(folder, _guess(folder)), audio_encoder, watch)
    output = Output(json)
    output.show(_files_table(verdict), _modules_table(verdict.modules))
    if verdict.manifest is None:
        note("no weights.json there: files were not hashed, only tensors compared; liveact weights pull writes one")
    if verdict.unfinished:
        note("the pull of this folder has not ended: run it again, it goes on where it stopped")
    output.result(
        {
            "ok": verdict.ok, "folder": str(folder), "manifest": verdict.manifest is not None,
            "files": [asdict(file) for file in verdict.files], "modules": [_as_json(m) for m in verdict.modules],
        }
    )  # fmt: skip
    if not verdict.ok:
        files, modules = [f.path for f in verdict.files if not f.ok], [m.name for m in verdict.modules if not m.fits]
        raise CheckFailed(f"{folder}: not whole: {', '.join(files + modules) or 'the pull has not ended'}")


@app.command()
def convert(
    folder: Folder,
    fp8: Annotated[
        Path | None, typer.Option("--fp8", metavar="OUT", help="A new folder, for matrices in eight bits (e4m3).")
    ] = None,
    preset: options.Preset = None,
    json: options.Json = False,
) -> None:
    """Write the weights in a smaller type: half the disk and half the time to load; what was interrupted goes on."""
    from liveact_models.weights.convert import convert_fp8
    from liveact_models.weights.verify import preset_of

    if fp8 is None:
        raise typer.BadParameter("name the new folder: --fp8 OUT", param_hint="--fp8")
    with progress(None, "converting") as watch:
        manifest = convert_fp8(folder, fp8, preset or preset_of(folder, _guess(folder)), watch=watch)
    size = sum(digest.size for digest in manifest.files.values())
    output = Output(json)
    output.show(f"{fp8}: {len(manifest.files)} files, {size_text(size)}; {folder} has {size_text(_size(folder))}")
    output.result({"folder": str(fp8), "files": len(manifest.files), "bytes": size})


@app.command()
def show(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="A checkpoint; none: what `pull` knows.")
    ] = None,
    preset: options.Preset = None,
    audio_encoder: AudioEncoder = None,
    json: options.Json = False,
) -> None:
    """Say what is in a folder, or which weights can be had."""
    output = Output(json)
    if folder is None:
        output.show(_releases_table())
        output.result({"releases": _releases()})
        return
    from liveact_models.checkpoint import open_checkpoint
    from liveact_models.checkpoint.inspect import inspect
    from liveact_models.weights.manifest import Manifest
    from liveact_models.weights.verify import preset_of

    checkpoint = open_checkpoint(folder, preset or preset_of(folder, _guess(folder)), audio_encoder=audio_encoder)
    modules, manifest = inspect(checkpoint), Manifest.read(folder)
    origins = [f"{o.repo} at {o.commit}" for o in manifest.origins] if manifest else []
    made = [manifest.made] if manifest and manifest.made else []
    output.show(checkpoint.describe(), *origins, *made, _modules_table(modules))
    output.result(
        {
            "folder": str(folder), "layout": checkpoint.kind, "preset": checkpoint.config.name,
            "origins": [asdict(origin) for origin in manifest.origins] if manifest else [],
            "modules": [_as_json(module) for module in modules],
        }
    )  # fmt: skip


@contextmanager
def progress(total: int | None, counted: str) -> Iterator[Watch]:
    """Bars on stderr: one a file that is worked at, and one of all bytes that are `counted` where their sum is known."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console, lock = stderr_console(), threading.Lock()
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    tasks: dict[str, TaskID] = {}
    reached: dict[tuple[str, str], int] = {}
    with bars:
        whole = bars.add_task("all", total=total) if total else None

        def watch(doing: str, path: str, done: int, size: int) -> None:
            with lock:
                if path not in tasks:
                    tasks[path] = bars.add_task(path, total=size)
                task, before = tasks[path], reached.get((doing, path), 0)
                reached[doing, path] = done
                bars.update(task, description=f"{doing} {path}", completed=done, total=size)
                if whole is not None and doing == counted and done > before:
                    bars.advance(whole, done - before)
                if done >= size:
                    bars.remove_task(tasks.pop(path))

        yield watch


def _planned(plan: Plan) -> Table:
    from rich.table import Table

    token = "with your token" if plan.has_token else "without a token"
    table = Table("weights", plan.release.name)
    table.add_row("from", f"{plan.endpoint}, {token}")
    for origin in plan.origins:
        table.add_row("", f"{origin.repo} at {origin.commit}")
    table.add_row("to", str(plan.folder))
    table.add_row("files", f"{len(plan.files)}, {size_text(plan.total_bytes)}")
    table.add_row("there already", f"{len(plan.done)}, and {size_text(plan.fetched_bytes)} of others")
    table.add_row("to be fetched", f"{size_text(plan.missing_bytes)}; {size_text(plan.free_bytes)} of disk are free")
    return table


def _files_table(verdict: Verdict) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table("file", "found", "detail")
    for file in verdict.files:
        style = "green" if file.found == "ok" else "yellow" if file.ok else "bold red"
        table.add_row(escape(file.path), f"[{style}]{file.found}[/]", escape(file.detail))
    return table


def _modules_table(modules: list[Inspection]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table("module", "tensors", "parameters", "stored", "types", "wrong tensors")
    for module in modules:
        wrong = [str(misfit) for misfit in module.misfits]
        lines = [*wrong[:SHOWN], *([f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else [])]
        if module.error:
            lines = [module.error]
        table.add_row(
            module.name, str(module.tensors), f"{module.parameters / 1e6:,.1f} M", size_text(module.nbytes),
            ", ".join(module.dtypes), f"[bold red]{escape(chr(10).join(lines))}[/]" if lines else "[green]none[/]",
        )  # fmt: skip
    return table


def _as_json(module: Inspection) -> dict[str, Any]:
    return {
        "name": module.name, "source": module.source, "tensors": module.tensors, "parameters": module.parameters,
        "bytes": module.nbytes, "dtypes": list(module.dtypes), "error": module.error,
        "misfits": [{"reason": misfit.reason, "tensor": misfit.name, "message": str(misfit)} for misfit in module.misfits],
    }  # fmt: skip


def _releases() -> list[dict[str, Any]]:
    from liveact_models.weights.releases import RELEASES

    return [
        {
            "name": release.name, "preset": release.preset, "about": release.about,
            "sources": [{"repo": source.repo, "revision": source.revision} for source in release.sources],
        }
        for release in RELEASES.values()
    ]  # fmt: skip


def _releases_table() -> Table:
    from rich.table import Table

    table = Table("name", "preset", "from", "what")
    for release in _releases():
        sources = "\n".join(f"{source['repo']} at {source['revision']}" for source in release["sources"])
        table.add_row(release["name"], release["preset"], sources, release["about"])
    return table


def size_text(nbytes: int) -> str:
    """Bytes for people: GiB, of less MiB."""
    return f"{nbytes / GIB:,.2f} GiB" if nbytes >= GIB / 10 else f"{nbytes / 2**20:.2f} MiB"


def _guess(folder: Path) -> str:
    """Our own layout carries its sizes; who has the released one has it of the released model."""
    return "tiny" if (folder / "liveact.json").is_file() else "soulx-liveact-18b"


def _size(folder: Path) -> int:
    from liveact_models.weights.verify import weight_files

    return sum((folder / path).stat().st_size for path in weight_files(folder)) if folder.is_dir() else 0
