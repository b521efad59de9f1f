"""`liveact bench graph`: what gRPC, Serve and six processes cost beside the bare model."""

from __future__ import annotations

import asyncio
import math
import os
import statistics
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liveact_models.hardware import hardware
from liveact_services.cli import options, serve
from liveact_services.cli.demo import EXAMPLES
from liveact_services.cli.exits import BadInput, CheckFailed
from liveact_services.cli.output import Output, note, reserved_stdout
from liveact_services.cli.render import load_pipeline

if TYPE_CHECKING:
    from rich.table import Table

    from liveact_models.pipeline import Pipeline
    from liveact_services.client import RecordedVoice

THROUGHPUT_RATIO = 0.9
ADDED_FIRST_FRAME_S = 0.1
STAGES = ("audio", "denoise", "decode", "encode")


@dataclass(frozen=True)
class Pass:
    """One clip, made once."""

    frames: int
    wall_s: float
    """From the first voice to the last frame."""
    first_frame_s: float
    """From the first voice to the first frame."""
    stage_s: dict[str, float]
    """Work in each stage, the whole clip."""
    blocks: int

    @property
    def fps(self) -> float:
        return self.frames / self.wall_s


@dataclass(frozen=True)
class Comparison:
    """Both ways, round after round."""

    bare: list[Pass]
    served: list[Pass]
    width: int
    height: int
    bare_threads: int

    @property
    def throughput_ratio(self) -> float:
        """Median over the rounds of served / bare."""
        return statistics.median(s.fps / b.fps for b, s in zip(self.bare, self.served, strict=True))

    @property
    def added_first_frame_s(self) -> float:
        """Median over the rounds of served - bare."""
        pairs = zip(self.bare, self.served, strict=True)
        return statistics.median(s.first_frame_s - b.first_frame_s for b, s in pairs)

    @property
    def passed(self) -> bool:
        return self.throughput_ratio >= THROUGHPUT_RATIO and self.added_first_frame_s <= ADDED_FIRST_FRAME_S

    def to_dict(self) -> dict[str, Any]:
        def side(passes: list[Pass]) -> dict[str, Any]:
            return {
                "fps": round(statistics.median(p.fps for p in passes), 2),
                "first_frame_ms": round(1000 * statistics.median(p.first_frame_s for p in passes), 1),
                "ms_per_block": {
                    stage: round(1000 * statistics.median(p.stage_s[stage] / p.blocks for p in passes), 1)
                    for stage in STAGES
                },
            }

        return {
            "throughput_ratio": round(self.throughput_ratio, 3),
            "added_first_frame_ms": round(1000 * self.added_first_frame_s, 1),
            "passed": self.passed,
            "bare": side(self.bare),
            "served": side(self.served),
            "rounds": len(self.bare),
            "frames": self.bare[0].frames,
            "width": self.width,
            "height": self.height,
            "bare_threads": self.bare_threads,
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "hardware": hardware(),
        }

    def table(self) -> Table:
        from rich.table import Table

        values = self.to_dict()
        bare, served = values["bare"], values["served"]
        title = f"{self.width}x{self.height}, {values['frames']} frames, {values['rounds']} rounds, medians"
        table = Table("", "bare pipeline", "gRPC + Serve", "", title=title, title_justify="left")
        table.add_row(
            "frames a second", f"{bare['fps']:.1f}", f"{served['fps']:.1f}",
            f"ratio {self.throughput_ratio:.2f}, at least {THROUGHPUT_RATIO}",
        )  # fmt: skip
        table.add_row(
            "first frame after the voice", f"{bare['first_frame_ms']:.0f} ms", f"{served['first_frame_ms']:.0f} ms",
            f"added {values['added_first_frame_ms']:.0f} ms, at most {1000 * ADDED_FIRST_FRAME_S:.0f}",
        )  # fmt: skip
        table.add_section()
        for stage in STAGES:
            table.add_row(
                f"{stage} a block", f"{bare['ms_per_block'][stage]:.1f} ms",
                f"{served['ms_per_block'][stage]:.1f} ms", "",
            )  # fmt: skip
        return table


def graph(
    size: options.Size = None,
    seconds: Annotated[float, typer.Option(help="Voice in the clip.", min=2)] = 24.0,
    rounds: Annotated[int, typer.Option(help="How often each way is measured, in turn.", min=1)] = 5,
    preset: options.Preset = None,
    checkpoint: options.Checkpoint = None,
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """The same clip through the bare Pipeline and through gRPC + Serve, in turn, on this machine.

    Exits with 1 below 0.9 of the bare throughput or above 100 ms of added time to the first frame.
    """
    width, height = options.parse_size(size)
    if not EXAMPLES.is_dir():
        raise BadInput(f"{EXAMPLES} is not there: run this from a checkout of the repository")
    with reserved_stdout() as stdout:
        with serve.own_service(None, settings, preset=preset, checkpoint=checkpoint) as service:
            compared = _compare(service, width, height, seconds, rounds)
        output = Output(json, stdout=stdout)
        output.show(compared.table())
        output.result(compared.to_dict())
    if not compared.passed:
        raise CheckFailed(
            f"throughput ratio {compared.throughput_ratio:.3f}, added {1000 * compared.added_first_frame_s:.0f} ms"
        )


def _compare(service: serve.OwnService, width: int, height: int, seconds: float, rounds: int) -> Comparison:
    # The bare model may have the whole machine: that is the limit.
    threads = os.cpu_count() or 1
    pipeline = load_pipeline(service.config, threads)
    if not (width or height):
        width, height = pipeline.config.limits.default
    portrait, voice = (EXAMPLES / "portrait.jpg").read_bytes(), clip(seconds)
    bare: list[Pass] = []
    served: list[Pass] = []
    for number in range(-1, rounds):
        note("warming up both ways" if number < 0 else f"round {number + 1} of {rounds}")
        one = _bare(pipeline, portrait, voice, width, height)
        other = asyncio.run(through_service(service.address, portrait, voice, width, height))
        if number >= 0:
            bare.append(one)
            served.append(other)
    return Comparison(bare, served, width, height, threads)


def clip(seconds: float) -> RecordedVoice:
    """The example's voice, over and over."""
    from liveact_services.client import RecordedVoice, read_voice
    from liveact_services.client.voice import SAMPLE_BYTES

    voice = read_voice(EXAMPLES / "voice.wav")
    size = round(seconds * voice.rate) * SAMPLE_BYTES
    return RecordedVoice((voice.pcm * (size // len(voice.pcm) + 1))[:size], voice.rate)


def _bare(pipeline: Pipeline, portrait: bytes, voice: RecordedVoice, width: int, height: int) -> Pass:
    from liveact_models.timeline import blocks_for_frames

    performance = pipeline.start(portrait, width=width, height=height, seed=1, rate=voice.rate)
    blocks = blocks_for_frames(math.ceil(voice.seconds * performance.state.fps))
    frames, first, spent = 0, 0.0, dict.fromkeys(STAGES, 0.0)
    began = time.perf_counter()
    performance.hear(voice.heard().samples, voice.rate)
    for number in range(blocks):
        at = time.perf_counter() - began
        block = performance.next_block()
        if number == 0:
            first = at + block.times.first_frame_s
        frames += len(block.frames)
        spent["audio"] += block.times.audio_s
        spent["denoise"] += block.times.denoise_s
        spent["decode"] += block.times.decode_s
    return Pass(frames, time.perf_counter() - began, first, spent, blocks)


async def through_service(
    address: str, portrait: bytes, voice: RecordedVoice, width: int, height: int, application: str = ""
) -> Pass:
    """The clip through gRPC + Serve; `application` says through which, where there are several."""
    from liveact.v1 import avatar_pb2 as pb2
    from liveact_services.client import AvatarClient, speak

    spent = dict.fromkeys(STAGES, 0.0)
    blocks: set[int] = set()

    class Times:
        """Adds up what the server says of its stages."""

        def open(self, session: pb2.Session) -> None:
            pass

        def audio(self, span: pb2.AudioSpan) -> None:
            pass

        def video(self, chunk: pb2.VideoChunk) -> None:
            blocks.add(chunk.block)
            for stage in STAGES:
                spent[stage] += getattr(chunk.times, f"{stage}_us") / 1e6

    config = pb2.SessionConfig(image=portrait, width=width, height=height, seed=1, pacing=pb2.PACING_FASTEST)
    metadata = [("application", application)] if application else []
    async with AvatarClient(address, metadata=metadata) as client:
        report = await speak(client, config, voice, pace="fastest", sink=Times())
    if report.realtime_factor is None or report.first_frame_s is None:
        raise CheckFailed("the service sent no frame")
    return Pass(report.frames, report.realtime_factor * report.video_s, report.first_frame_s, spent, len(blocks))
