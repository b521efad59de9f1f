"""`liveact bench chaos`: sessions stream while parts of the service are killed, and viewers' stalls are counted."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liveact_models.hardware import hardware
from liveact_services.cli import options, serve
from liveact_services.cli.bench.graph import clip
from liveact_services.cli.demo import EXAMPLES
from liveact_services.cli.exits import BadInput, CheckFailed
from liveact_services.cli.output import Output, note, reserved_stdout

if TYPE_CHECKING:
    from rich.table import Table

    from liveact.v1 import avatar_pb2 as pb2
    from liveact_services.client import AvatarClient, RecordedVoice

KINDS = ("Denoiser", "VaeDecoder", "AudioEncoder", "Conditioner", "VaeEncoder", "Vault")
"""Deployments of which a replica is killed."""


@dataclass(frozen=True)
class Kill:
    """One replica's end, in seconds of `time.perf_counter`."""

    kind: str
    at: float


@dataclass
class Viewer:
    """What one client saw. It shows a frame when it is due; a late one stops its picture and moves all that follow."""

    seed: int
    frames: int = 0
    migrations: int = 0
    error: str = ""
    """Why the session did not end as it should."""
    stalls: list[tuple[float, float]] = field(default_factory=list)
    """(when it ended, how long it was), in seconds."""
    _due: float | None = None

    def video(self, indices: Sequence[int], arrived: float, delay: float, fps: float) -> None:
        """Frames came at that moment, for a picture that starts `delay` seconds after the first."""
        for index in indices:
            if index != self.frames and not self.error:
                self.error = f"frame {index} came where frame {self.frames} was next"
            self.frames += 1
        if self._due is None:
            self._due = arrived + delay
        elif arrived > self._due:
            self.stalls.append((arrived, arrived - self._due))
            self._due = arrived
        self._due += len(indices) / fps

    def stalled(self, since: float, until: float) -> float:
        """Seconds without picture that ended between two moments."""
        return sum(length for ended, length in self.stalls if since < ended <= until)


@dataclass(frozen=True)
class Outcome:
    """All viewers of a run, and what was killed meanwhile."""

    viewers: list[Viewer]
    kills: list[Kill]
    began: float
    ended: float

    @property
    def errors(self) -> list[str]:
        return [viewer.error for viewer in self.viewers if viewer.error]

    def stalls(self) -> dict[str, list[float]]:
        """By kind of kill: each viewer's seconds without picture until the next kill; and "none", before the first."""
        found: dict[str, list[float]] = {}
        marks = [Kill("none", self.began), *self.kills]
        for kill, until in zip(marks, [*(k.at for k in self.kills), self.ended], strict=True):
            found.setdefault(kill.kind, []).extend(viewer.stalled(kill.at, until) for viewer in self.viewers)
        return found

    def to_dict(self) -> dict[str, Any]:
        def figures(stalls: list[float], kind: str) -> dict[str, Any]:
            kills = sum(kill.kind == kind for kill in self.kills)
            p50, p95 = percentile(stalls, 50), percentile(stalls, 95)
            return {"kills": kills, "stall_p50_s": round(p50, 3), "stall_p95_s": round(p95, 3)}

        return {
            "kinds": {kind: figures(stalls, kind) for kind, stalls in self.stalls().items()},
            "sessions": len(self.viewers),
            "errors": self.errors,
            "frames": sum(viewer.frames for viewer in self.viewers),
            "migrations": sum(viewer.migrations for viewer in self.viewers),
            "seconds": round(self.ended - self.began, 1),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "hardware": hardware(),
        }

    def table(self) -> Table:
        from rich.table import Table

        values = self.to_dict()
        title = f"{values['sessions']} sessions, {values['seconds']:.0f} s, {values['frames']} frames, each once"
        table = Table("killed", "times", "stall p50", "stall p95", title=title, title_justify="left")
        for kind, figures in values["kinds"].items():
            p50, p95 = figures["stall_p50_s"], figures["stall_p95_s"]
            table.add_row(kind, str(figures["kills"] or "-"), f"{p50:.2f} s", f"{p95:.2f} s")
        return table


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that at least so many percent of the values do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else 0.0


async def disturb(
    address: str,
    kill: Callable[[str], bool],
    *,
    portrait: bytes,
    voice: RecordedVoice,
    size: tuple[int, int],
    sessions: int,
    every_s: float,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
) -> Outcome:
    """Let sessions speak the voice at speaking pace, and meanwhile kill a replica every `every_s` seconds.

    Kinds come in a random order, each as often as the others; `kill` ends one replica of a deployment and says whether there
    was one.
    """
    from liveact_services.client import AvatarClient

    viewers = [Viewer(seed + number) for number in range(sessions)]
    kills: list[Kill] = []
    began = time.perf_counter()

    async def strike() -> None:
        draw, left = random.Random(seed), list[str]()
        while True:
            await asyncio.sleep(every_s)
            left = left or draw.sample(list(kinds), len(kinds))
            kind = left.pop()
            if await asyncio.to_thread(kill, kind):
                kills.append(Kill(kind, time.perf_counter()))
                note(f"{kills[-1].at - began:6.1f} s  killed a replica of {kind}")

    async with AvatarClient(address) as client:
        striking = asyncio.create_task(strike())
        await asyncio.gather(*(_view(client, viewer, portrait, voice, size) for viewer in viewers))
        striking.cancel()
        await asyncio.gather(striking, return_exceptions=True)
    return Outcome(viewers, kills, began, time.perf_counter())


async def _view(
    client: AvatarClient, viewer: Viewer, portrait: bytes, voice: RecordedVoice, size: tuple[int, int]
) -> None:
    from liveact.v1 import avatar_pb2 as pb2
    from liveact_services.client import speak
    from liveact_services.errors import ClientError

    class Screen:
        """Shows what comes."""

        delay, fps = 0.0, 1.0

        def open(self, session: pb2.Session) -> None:
            self.delay, self.fps = session.playout_delay.ToTimedelta().total_seconds(), session.fps

        def video(self, chunk: pb2.VideoChunk) -> None:
            viewer.video([frame.index for frame in chunk.frames], time.perf_counter(), self.delay, self.fps)

        def audio(self, span: pb2.AudioSpan) -> None:
            pass

    def happened(event: pb2.Event) -> None:
        viewer.migrations += event.type == pb2.EVENT_TYPE_MIGRATED

    width, height = size
    config = pb2.SessionConfig(
        image=portrait, width=width, height=height, seed=viewer.seed, pacing=pb2.PACING_REALTIME,
        codec=pb2.VIDEO_CODEC_JPEG,
    )  # fmt: skip
    try:
        await speak(client, config, voice, sink=Screen(), on_event=happened)
    except ClientError as error:
        viewer.error = viewer.error or f"{error.reason or error.code.name}: {error}"


def kill_one(deployment: str) -> bool:
    """SIGKILL the oldest replica of a deployment below this process; whether there was one. The oldest hold the sessions."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            words = process.cmdline()
            if words and words[0].startswith(f"ray::ServeReplica:liveact:{deployment}"):
                found.append((process.create_time(), process))
        except psutil.NoSuchProcess:
            continue
    if found:
        min(found, key=lambda one: one[0])[1].kill()
    return bool(found)


def chaos(
    size: options.Size = "32x32",
    seconds: Annotated[float, typer.Option(help="Voice of each session.", min=5)] = 180.0,
    every: Annotated[float, typer.Option(help="Seconds from one kill to the next.", min=1)] = 15.0,
    sessions: Annotated[int, typer.Option(help="Sessions that stream.", min=1)] = 4,
    seed: options.Seed = 0,
    preset: options.Preset = None,
    checkpoint: options.Checkpoint = None,
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """Kill replicas of a service of its own, one every few seconds, while sessions stream; print viewers' stalls.

    Exits with 1 when a session is lost or a frame comes twice, late in order or not at all.
    """
    if not EXAMPLES.is_dir():
        raise BadInput(f"{EXAMPLES} is not there: run this from a checkout of the repository")
    two = [f"{stage}.replicas=2" for stage in ("denoiser", "vae_decoder")]
    with reserved_stdout() as stdout:
        with serve.own_service(None, [*two, *(settings or [])], preset=preset, checkpoint=checkpoint) as service:
            portrait = (EXAMPLES / "portrait.jpg").read_bytes()
            outcome = asyncio.run(
                disturb(
                    service.address, kill_one, portrait=portrait, voice=clip(seconds), size=options.parse_size(size),
                    sessions=sessions, every_s=every, seed=seed,
                )
            )  # fmt: skip
        output = Output(json, stdout=stdout)
        output.show(outcome.table())
        output.result(outcome.to_dict())
    if outcome.errors:
        raise CheckFailed("; ".join(outcome.errors))
