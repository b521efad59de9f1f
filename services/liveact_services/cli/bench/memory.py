"""`liveact bench memory`: an hour of one session, in which neither its state nor the process nor a block's time grows."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liveact_models.hardware import hardware
from liveact_services.cli import options
from liveact_services.cli.demo import EXAMPLES
from liveact_services.cli.exits import ExitCode
from liveact_services.cli.output import Output, note, stderr_console

if TYPE_CHECKING:
    import numpy as np
    from rich.progress import Progress
    from rich.table import Table

    from liveact_models.pipeline import Performance, Pipeline
    from liveact_models.voice import Voice

HOUR_BLOCKS = 2250
WARM_UP_BLOCKS = 5
"""Blocks before the first that is timed: kernels are chosen and memory is first touched in them."""
SHARE = 0.05
"""Of all blocks, what counts as the beginning and as the end."""
MAX_MEMORY_CHANGE = 0.01
MAX_TIME_CHANGE = 0.05
MB = 1e6


@dataclass(frozen=True)
class Sample:
    """What was measured after one block."""

    state_bytes: int
    """Of the ConvKV memory."""
    decoder_bytes: int
    """Of the decoder's feature cache."""
    rss_bytes: int
    """Of the whole process, resident."""
    block_s: float
    control_s: float | None
    """Seconds of a young session's block made right after it; at the beginning and the end only."""


@dataclass
class Ageing:
    """What was measured of every block of one session, and what that says about its age."""

    blocks: int
    """Blocks asked for; fewer are measured when it is interrupted."""
    formula_bytes: int
    samples: list[Sample] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return len(self.samples) == self.blocks

    @property
    def tells(self) -> bool:
        """Whether enough was measured for a beginning and an end."""
        return len(self.samples) >= self._window + max(WARM_UP_BLOCKS + self._window, 2 * self._window)

    @property
    def first(self) -> list[Sample]:
        """The beginning, whose block time is compared."""
        return self.samples[WARM_UP_BLOCKS : WARM_UP_BLOCKS + self._window]

    @property
    def settled(self) -> list[Sample]:
        """What follows the first share of the blocks, whose process memory is compared."""
        return self.samples[self._window : 2 * self._window]

    @property
    def last(self) -> list[Sample]:
        return self.samples[-self._window :]

    @property
    def state_is_constant(self) -> bool:
        """Whether the ConvKV memory has the formula's bytes after every block, and the decoder's cache one size."""
        sizes = {(sample.state_bytes, sample.decoder_bytes) for sample in self.samples}
        return len(sizes) == 1 and {state for state, _ in sizes} == {self.formula_bytes}

    @property
    def rss_growth(self) -> float:
        """Process memory at the end against that after the beginning, minus 1."""
        return rss_bytes(self.last) / rss_bytes(self.settled) - 1

    @property
    def block_time_ratio(self) -> float:
        """A block's time at the end against that at the beginning."""
        return block_s(self.last) / block_s(self.first)

    @property
    def machine_ratio(self) -> float:
        """The same of the young session: how much slower the machine itself became in between; nan if not measured."""
        return control_s(self.last) / control_s(self.first)

    @property
    def checks(self) -> dict[str, bool]:
        """Each figure that must hold. Time may follow the machine's: other work on it slows the young session as well."""
        changes = (self.block_time_ratio - 1, self.block_time_ratio / self.machine_ratio - 1)
        return {
            "state": self.state_is_constant,
            "rss": abs(self.rss_growth) <= MAX_MEMORY_CHANGE,
            "time": any(abs(change) <= MAX_TIME_CHANGE for change in changes),
        }

    @property
    def passed(self) -> bool:
        return self.complete and all(self.checks.values())

    def has_control(self, block: int) -> bool:
        """Whether the young session makes a block after this one."""
        return block < WARM_UP_BLOCKS + self._window or block >= self.blocks - self._window

    @property
    def _window(self) -> int:
        """How many blocks the beginning and the end have."""
        return max(1, round(self.blocks * SHARE))


def rss_bytes(samples: list[Sample]) -> float:
    return _median([sample.rss_bytes for sample in samples])


def block_s(samples: list[Sample]) -> float:
    return _median([sample.block_s for sample in samples])


def control_s(samples: list[Sample]) -> float:
    return _median([sample.control_s for sample in samples if sample.control_s is not None])


def memory(
    blocks: Annotated[
        int, typer.Option(min=20, help="Blocks to make; the default is an hour of video at 20 fps.")
    ] = HOUR_BLOCKS,
    size: options.Size = None,
    preset: Annotated[str, typer.Option(help="Size of the model.")] = "tiny",
    checkpoint: Annotated[str, typer.Option(help="A checkpoint folder, or `untrained`.")] = "untrained",
    voice: Annotated[
        Path | None, typer.Option(help="A sound file, heard over and over; none: the example, or tones.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The plot to write.")] = Path("out/bench-memory.png"),
    json: options.Json = False,
) -> None:
    """Let one session talk for an hour, in this process and on one torch thread, and look whether it ages.

    Exit 1 unless the state's bytes are constant and equal to the formula, the process's memory at the end is within 1 % of that
    after the beginning, and a block's time within 5 %. Without --size, the smallest picture of the preset. Ctrl-C shows
    what was measured so far.
    """
    width, height = options.parse_size(size)
    import torch

    from liveact_models.checkpoint import open_checkpoint
    from liveact_models.pipeline import Pipeline

    torch.set_num_threads(1)
    note(f"loading {preset}, checkpoint {checkpoint}")
    pipeline = Pipeline(open_checkpoint(checkpoint, preset))
    if not (width or height):
        width = height = pipeline.config.limits.minimum
    what, sound = _voice(voice)
    ageing = measure(pipeline, sound, blocks, width, height)
    made = len(ageing.samples)
    if not ageing.tells:
        note(f"interrupted after {made} of {blocks} blocks: too few to tell anything")
        raise typer.Exit(ExitCode.INTERRUPTED)
    out.parent.mkdir(parents=True, exist_ok=True)
    plot(ageing, out)
    title = f"{made} blocks, {pipeline.config.name} at {width}x{height}, voice: {what}"
    output = Output(json)
    output.show(table(ageing, title), f"plotted in {out}")
    output.result(
        {"preset": pipeline.config.name, "width": width, "height": height, "voice": what, "out": str(out)}
        | report(ageing)
    )
    if not ageing.complete:
        note(f"interrupted after {made} of {blocks} blocks")
        raise typer.Exit(ExitCode.INTERRUPTED)
    if not ageing.passed:
        # Not raised as an error, whose object would take the result's place as the last line.
        note(f"liveact: the session ages: {', '.join(name for name, held in ageing.checks.items() if not held)}")
        raise typer.Exit(ExitCode.CHECK_FAILED)


def measure(pipeline: Pipeline, voice: Voice, blocks: int, width: int, height: int) -> Ageing:
    """Make the blocks of one session, real work each, and measure after every one. Ctrl-C ends it early."""
    import psutil
    import torch

    from liveact_models.memory import memory_bytes

    guided = pipeline.denoiser.sampling.guided
    ageing = Ageing(blocks, memory_bytes(pipeline.config, width, height, torch.float32, guided))
    portrait = _portrait(width, height)
    session, young = (pipeline.start(portrait, seed=seed, rate=voice.rate) for seed in (0, 1))
    process = psutil.Process()
    with _progress() as bar:
        task = bar.add_task("", total=blocks)
        try:
            for block in range(blocks):
                seconds = _next_block(session, voice)
                control = _next_block(young, voice) if ageing.has_control(block) else None
                rss = process.memory_info().rss
                sample = Sample(session.state.memory_bytes, session.decoder_bytes, rss, seconds, control)
                ageing.samples.append(sample)
                bar.update(task, advance=1)
        except KeyboardInterrupt:
            pass  # `complete` tells
    return ageing


def report(ageing: Ageing) -> dict[str, Any]:
    """The figures for scripts."""
    latest = ageing.samples[-1]
    return {
        "blocks": len(ageing.samples),
        "state_bytes": latest.state_bytes,
        "state_bytes_formula": ageing.formula_bytes,
        "state_bytes_constant": ageing.state_is_constant,
        "decoder_bytes": latest.decoder_bytes,
        "rss_bytes": latest.rss_bytes,
        "rss_growth": round(ageing.rss_growth, 5),
        "block_s": round(block_s(ageing.samples), 5),
        "block_time_ratio": round(ageing.block_time_ratio, 4),
        "machine_ratio": round(ageing.machine_ratio, 4),
        "complete": ageing.complete,
        "passed": ageing.passed,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "hardware": hardware(),
    }


def table(ageing: Ageing, title: str) -> Table:
    """The figures for people."""
    from rich.table import Table

    begin, end = ageing.samples[0], ageing.samples[-1]
    held = {name: "ok" if passed else "FAIL" for name, passed in ageing.checks.items()}
    table = Table("", "beginning", "end", "change", "must be", "", title=title, title_justify="left")
    table.add_row(
        "ConvKV memory", f"{begin.state_bytes:,} bytes", f"{end.state_bytes:,} bytes",
        f"{end.state_bytes - begin.state_bytes:+,}", f"{ageing.formula_bytes:,} bytes always", held["state"],
    )  # fmt: skip
    table.add_row(
        "decoder cache", f"{begin.decoder_bytes:,} bytes", f"{end.decoder_bytes:,} bytes",
        f"{end.decoder_bytes - begin.decoder_bytes:+,}", "one size always", held["state"],
    )  # fmt: skip
    table.add_row(
        "process memory", f"{rss_bytes(ageing.settled) / MB:.1f} MB", f"{rss_bytes(ageing.last) / MB:.1f} MB",
        f"{ageing.rss_growth:+.2%}",
        f"within {MAX_MEMORY_CHANGE:.0%}", held["rss"],
    )  # fmt: skip
    table.add_row(
        "block time", f"{block_s(ageing.first) * 1e3:.1f} ms", f"{block_s(ageing.last) * 1e3:.1f} ms",
        f"{ageing.block_time_ratio - 1:+.1%}",
        f"within {MAX_TIME_CHANGE:.0%} *", held["time"],
    )  # fmt: skip
    table.caption = (
        f"* or within it of the machine's own change: {ageing.machine_ratio - 1:+.1%}, that of a young session's blocks, "
        "made in turn with these at the beginning and at the end"
    )
    return table


def plot(ageing: Ageing, out: Path) -> None:
    """State, process memory and block time over the session's age, one under the other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from liveact_models.timeline import block_seconds

    samples, median_s = ageing.samples, block_s(ageing.samples)
    minutes = [block * block_seconds(1, 20) / 60 for block in range(len(samples))]
    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)
    state, rss, time = figure.subplots(3, 1, sharex=True)
    state.plot(minutes, [sample.state_bytes / MB for sample in samples], label="ConvKV memory")
    state.axhline(ageing.formula_bytes / MB, color="black", linestyle=":", label="formula")
    state.plot(minutes, [sample.decoder_bytes / MB for sample in samples], label="decoder cache")
    state.set(ylabel="state, MB", ylim=(0, None), title="One session by its age")
    state.legend(loc="lower right", ncols=3)
    rss.plot(minutes, [sample.rss_bytes / MB for sample in samples])
    rss.set(ylabel="process memory, MB", ylim=(0, 1.1 * max(sample.rss_bytes for sample in samples) / MB))
    time.plot(minutes, [sample.block_s * 1e3 for sample in samples], ".", markersize=1)
    time.axhline(median_s * 1e3, color="black", linestyle=":", label="median")
    time.set(ylabel="block time, ms", ylim=(0, 3 * median_s * 1e3), xlabel="minutes of video at 20 fps")
    time.legend(loc="lower right")
    figure.savefig(out, dpi=120)


def _next_block(performance: Performance, voice: Voice) -> float:
    """Hear what the block needs of a voice that never ends, make the block; its seconds."""
    import numpy as np

    heard = performance.heard
    performance.hear(voice.samples.take(np.arange(heard, heard + performance.missing()), mode="wrap"), voice.rate)
    return performance.next_block().times.total_s


def _voice(path: Path | None) -> tuple[str, Voice]:
    """What is heard, in words and as sound. Raises `VoiceError` for a file that is none."""
    import numpy as np

    from liveact_models.voice import Voice, load_voice

    example = EXAMPLES / "voice.wav"
    if path is None and not example.is_file():
        at = np.arange(16000 * 8) / 16000
        vowels = np.sin(2 * np.pi * 140 * at) + 0.5 * np.sin(2 * np.pi * 700 * at) * np.sin(2 * np.pi * 3 * at)
        return "tones", Voice((0.2 * vowels * (at % 2 < 1.5)).astype(np.float32), 16000)
    return (path or example).name, load_voice(path or example)


def _portrait(width: int, height: int) -> np.ndarray:
    """A smooth picture [3, height, width]: what it shows changes no figure here."""
    import numpy as np

    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return np.stack((x, y, x * y)).astype(np.float32)


def _progress() -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("ageing a session"), BarColumn(), MofNCompleteColumn(), TextColumn("blocks"), TimeElapsedColumn(),
        TimeRemainingColumn(), console=stderr_console(), transient=True,
    )  # fmt: skip


def _median(values: list[int] | list[float]) -> float:
    """nan of nothing."""
    return statistics.median(values) if values else float("nan")
