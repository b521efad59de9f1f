"""`liveact demo`: the whole product once, on this machine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liveact_services.cli import options, serve
from liveact_services.cli.exits import BadInput
from liveact_services.cli.output import Output, frame_progress, note, reserved_stdout
from liveact_services.cli.stream import report_outage

if TYPE_CHECKING:
    from rich.table import Table

    from liveact.v1 import avatar_pb2 as pb2
    from liveact_services.client import RecordedVoice, Sink, StreamReport
    from liveact_services.client.voice import Pace

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


@dataclass(frozen=True)
class Measured:
    """The demo's two passes. `realtime` was recorded; `fastest` tells what the service can do."""

    out: Path
    startup_s: float
    checkpoint: str
    realtime: StreamReport
    fastest: StreamReport

    def to_dict(self) -> dict[str, Any]:
        return {
            "out": str(self.out),
            "checkpoint": self.checkpoint,
            "startup_s": round(self.startup_s, 1),
            "time_to_first_frame_s": self.realtime.to_dict()["first_frame_s"],
            "frames_per_second": self.fastest.to_dict()["fps"],
            "realtime_factor": self.fastest.to_dict()["realtime_factor"],
            "stalls": self.realtime.stalls,
            "realtime": self.realtime.to_dict(),
            "fastest": self.fastest.to_dict(),
        }

    def table(self) -> Table:
        from rich.table import Table

        live, fast = self.realtime, self.fastest
        table = Table("", "figure", "how it was measured", title="LiveAct demo", title_justify="left")
        table.add_row("service ready", f"{self.startup_s:.1f} s", "from the command to the first answer")
        table.add_row("session ready", _seconds(live.ready_s), "config sent to READY")
        table.add_row(
            "time to first frame", _seconds(live.first_frame_s),
            "first voice byte to first frame; the first block hears 1.15 s of voice at speaking pace",
        )  # fmt: skip
        table.add_row(
            "frames per second", _number(fast.fps), f"as fast as possible; the picture needs {fast.fps_asked}"
        )
        table.add_row(
            "realtime factor", _number(fast.realtime_factor), "wall time per second of video, whole graph; < 1 is live"
        )
        table.add_row(
            "stalls", f"{live.stalls} ({live.stall_s:.2f} s)",
            f"a viewer at speaking pace, {live.playout_delay_s:.2f} s buffer, {_number(live.fps)} frames/s received",
        )  # fmt: skip
        table.add_row(
            "lengths", f"{live.video_s:.2f} s video", f"{live.audio_s:.2f} s sound, from {live.voice_s:.2f} s of voice"
        )
        if broken := live.reconnections + fast.reconnections:
            table.add_row("connection broken", f"{broken} times", f"{live.outage_s + fast.outage_s:.2f} s in all")
        return table


def demo(
    out: Annotated[Path, typer.Option(help="The video to write.")] = Path("out/demo.mp4"),
    image: Annotated[Path, typer.Option(help="The portrait.")] = EXAMPLES / "portrait.jpg",
    voice: Annotated[Path, typer.Option(help="The voice.")] = EXAMPLES / "voice.wav",
    size: options.Size = None,
    config: options.ConfigFile = None,
    preset: options.Preset = None,
    checkpoint: options.Checkpoint = None,
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """Start the service, stream a portrait and a voice at speaking pace, write an MP4, and say what was measured."""
    width, height = options.parse_size(size)
    if EXAMPLES in image.parents and not image.is_file():
        raise BadInput(f"{image} is not there: name a portrait and a voice with --image and --voice")
    portrait = options.read_image(image)
    from liveact.v1 import avatar_pb2 as pb2
    from liveact_services.client import read_voice

    sound = read_voice(voice)
    asked = pb2.SessionConfig(image=portrait, width=width, height=height, idle_policy=pb2.IDLE_POLICY_HOLD)
    with reserved_stdout() as stdout:
        with serve.own_service(config, settings, preset=preset, checkpoint=checkpoint) as service:
            realtime, fastest = asyncio.run(_both_passes(service.address, asked, sound, out))
        measured = Measured(out, service.startup_s, service.checkpoint, realtime, fastest)
        output = Output(json, stdout=stdout)
        output.show(measured.table(), f"written to {out}")
        if service.checkpoint == "untrained":
            output.show(
                "The weights are untrained, so the picture is noise; sound, timing and everything else are real."
            )
        output.result(measured.to_dict())


async def _both_passes(
    server: str, config: pb2.SessionConfig, voice: RecordedVoice, out: Path
) -> tuple[StreamReport, StreamReport]:
    from liveact.v1 import avatar_pb2 as pb2
    from liveact_services.client import Mp4Recorder

    config.pacing = pb2.PACING_REALTIME
    with Mp4Recorder(out) as recorder:
        realtime = await _pass(server, config, voice, "realtime", "live, at speaking pace", recorder)
    config.pacing = pb2.PACING_FASTEST
    fastest = await _pass(server, config, voice, "fastest", "again, as fast as possible")
    return realtime, fastest


async def _pass(
    server: str, config: pb2.SessionConfig, voice: RecordedVoice, pace: Pace, what: str, sink: Sink | None = None
) -> StreamReport:
    from liveact_services.client import AvatarClient, speak

    note(what)
    async with AvatarClient(server) as client:
        with frame_progress(what) as bar:
            task = bar.add_task("", total=voice.seconds, frames=0)
            return await speak(
                client, config, voice, pace=pace, sink=sink, on_resume=report_outage,
                progress=lambda frames, seconds: bar.update(task, completed=seconds, frames=frames),
            )  # fmt: skip


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
