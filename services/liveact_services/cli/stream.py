"""`liveact stream`: a portrait and a voice through a running service, into a file or a live pipe."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import stat
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from liveact_services.cli import options, sealing
from liveact_services.cli.exits import BadInput
from liveact_services.cli.output import Output, frame_progress, note, reserved_stdout
from liveact_services.conductor.stages import Codec, Idle, Pacing

if TYPE_CHECKING:
    from liveact.v1 import avatar_pb2 as pb2
    from liveact_services.client import AvatarClient, Outage, StreamReport, Voice
    from liveact_services.client.recorder import FramePipe, Mp4Recorder
    from liveact_services.client.voice import Pace

PIPE = "-"


def stream(
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="The portrait: PNG, JPEG or WebP; or an avatar's name, avatars/{id}.")
    ],
    voice: Annotated[str, typer.Argument(metavar="VOICE", help="A sound file, or - for raw mono PCM16 on stdin.")],
    server: Annotated[str, typer.Option(metavar="HOST:PORT", help="The service.")] = "127.0.0.1:9000",
    out: Annotated[
        str, typer.Option(metavar="FILE", help="An MP4 file, or - for MPEG-TS on stdout.")
    ] = "out/stream.mp4",
    size: options.Size = None,
    fps: Annotated[int, typer.Option(min=0, help="Frames a second; 0: the service's default.")] = 0,
    prompt: options.Prompt = "",
    codec: Annotated[Codec, typer.Option(help="How frames travel.")] = Codec.H264,
    pacing: Annotated[Pacing, typer.Option(help="At speaking pace, or as fast as it goes.")] = Pacing.REALTIME,
    idle: Annotated[
        Idle, typer.Option(help="While nobody speaks: live on, stop the clock, or play a few seconds back and forth.")
    ] = Idle.ANIMATE,
    seed: options.Seed = 0,
    rate: Annotated[int, typer.Option(help="Samples a second of raw voice on stdin.")] = 16000,
    consent: Annotated[
        str, typer.Option(metavar="REFERENCE", help="Where the consent of the person shown is on file; no name.")
    ] = "",
    visible_watermark: options.VisibleWatermark = False,
    invisible_watermark: options.InvisibleWatermark = False,
    c2pa_cert: sealing.Cert = None,
    c2pa_key: sealing.Key = None,
    token: options.Token = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Ask the service to trace the stream, and say its id.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Make a portrait talk: IMAGE and VOICE to a service, the video to a file or a player.

    A microphone and a player: arecord -f S16_LE -r 16000 -c 1 -t raw | liveact stream me.jpg - --out - | ffplay -
    """
    if out == PIPE and json:
        raise typer.BadParameter("stdout carries the video with --out -", param_hint="--json")
    if out == PIPE and (c2pa_cert or c2pa_key):
        raise typer.BadParameter("only an MP4 file is signed, not --out -", param_hint="--c2pa-cert")
    width, height = options.parse_size(size)
    portrait = {"avatar": image} if image.startswith("avatars/") else {"image": options.read_image(Path(image))}
    from liveact.v1 import avatar_pb2 as pb2

    config = pb2.SessionConfig(
        **portrait, consent=consent, prompt=prompt,
        watermark=pb2.Watermark(visible=visible_watermark, invisible=invisible_watermark),
        width=width, height=height, fps=fps, seed=seed,
        codec=pb2.VideoCodec.Value(f"VIDEO_CODEC_{codec.name}"), pacing=pb2.Pacing.Value(f"PACING_{pacing.name}"),
        idle_policy=pb2.IdlePolicy.Value(f"IDLE_POLICY_{idle.name}"),
    )  # fmt: skip
    seal = sealing.seal(c2pa_cert, c2pa_key, out, config.image)
    connect = partial(_connect, server, token, _traced() if trace else ())
    if out == PIPE:
        report = _stream_to_pipe(connect, config, voice, rate, pacing.value)
        Output(json, people_on_stderr=True).show(report.table("stream"))
        return
    from liveact_services.client import Mp4Recorder

    with Mp4Recorder(Path(out), seal) as recorder:
        report = asyncio.run(_stream(connect, config, voice, rate, pacing.value, recorder))
    output = Output(json)
    output.show(report.table("stream"), f"written to {out}")
    output.result({"out": out, **report.to_dict()})


def _traced() -> tuple[tuple[str, str]]:
    """Metadata that asks for a trace of its own, whose id is said on stderr."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    note(f"trace {trace}")
    return (("traceparent", f"00-{trace}-{span}-01"),)


def _connect(server: str, token: str | None, metadata: tuple[tuple[str, str], ...]) -> AvatarClient:
    from liveact_services.client import AvatarClient

    return AvatarClient(server, token=token, metadata=metadata)


def _stream_to_pipe(
    connect: Callable[[], AvatarClient], config: pb2.SessionConfig, voice: str, rate: int, pace: Pace
) -> StreamReport:
    from liveact_services.client import FramePipe

    try:
        with reserved_stdout() as stdout:
            pipe = FramePipe(stdout.buffer)
            report = asyncio.run(_stream(connect, config, voice, rate, pace, pipe))
            pipe.close()
            return report
    except BrokenPipeError:
        note("the player has closed the pipe")
        raise typer.Exit from None


async def _stream(
    connect: Callable[[], AvatarClient],
    config: pb2.SessionConfig,
    voice: str,
    rate: int,
    pace: Pace,
    sink: Mp4Recorder | FramePipe,
) -> StreamReport:
    from liveact_services.client import RecordedVoice, speak

    source = await open_voice(voice, rate)
    total = source.seconds if isinstance(source, RecordedVoice) else None
    async with connect() as client:
        with frame_progress("streaming") as bar:
            task = bar.add_task("", total=total, frames=0)
            return await speak(
                client, config, source, pace=pace, sink=sink, on_event=report_event, on_resume=report_outage,
                progress=lambda frames, seconds: bar.update(task, completed=seconds, frames=frames),
            )  # fmt: skip


async def open_voice(voice: str, rate: int) -> Voice:
    """The voice of a file, or stdin: a pipe or terminal as it comes until Ctrl-C, a redirected file whole.

    Raises `VoiceError` for a file that is no sound and `BadInput` for a rate or stdin that cannot be used.
    """
    from liveact_models.voice.source import RATES
    from liveact_services.client import LiveVoice, RecordedVoice, read_voice

    if voice != PIPE:
        return await asyncio.to_thread(read_voice, Path(voice))
    if rate not in RATES:
        raise BadInput(f"--rate {rate}: accepted are {', '.join(map(str, RATES))}")
    if stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode):
        pcm = await asyncio.to_thread(sys.stdin.buffer.read)
        return RecordedVoice(pcm[: len(pcm) // 2 * 2], rate)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    live = LiveVoice(reader, rate)

    def finish() -> None:
        note("finishing what was said; Ctrl-C again to stop at once")
        live.stop()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, finish)
    return live


def report_event(event: pb2.Event) -> None:
    """Events that the viewer will notice, on stderr."""
    from liveact.v1 import avatar_pb2 as pb2

    if event.type in (
        pb2.EVENT_TYPE_NOTICE, pb2.EVENT_TYPE_UNDERRUN, pb2.EVENT_TYPE_MIGRATED, pb2.EVENT_TYPE_GOING_AWAY,
        pb2.EVENT_TYPE_EXPIRING,
    ):  # fmt: skip
        kind = pb2.EventType.Name(event.type).removeprefix("EVENT_TYPE_").lower()
        note(f"{kind} at {event.pts_us / 1e6:.2f} s {event.reason} {event.message}".rstrip())


def report_outage(outage: Outage) -> None:
    """A connection that broke and was mended, on stderr."""
    note(f"the connection broke ({outage.cause}); resumed after {outage.seconds:.2f} s, attempt {outage.attempts}")
