"""`liveact bench stream`: viewers behind a network that delays, jitters and loses, beside the same sessions in process."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liveact_services.cli import options, serve
from liveact_services.cli.bench.graph import clip
from liveact_services.cli.demo import EXAMPLES
from liveact_services.cli.exits import BadInput, CheckFailed
from liveact_services.cli.output import Output, note, reserved_stdout

if TYPE_CHECKING:
    from liveact_services.cli.bench.stream.figures import Figures, Seen
    from liveact_services.cli.bench.stream.path import Weather
    from liveact_services.cli.bench.stream.viewer import Viewing
    from liveact_services.client import RecordedVoice
    from liveact_services.client.conversation import Conversation
    from liveact_services.config import ServiceConfig

    Opening = Callable[[AsyncExitStack, int], Awaitable[Conversation]]

RATE = 24000
CREDIT = 160
APART_S = 0.4
"""Between the openings of two sessions, so that they do not all want their blocks at once."""


def stream(
    size: options.Size = None,
    clients: Annotated[int, typer.Option(help="Viewers at a time.", min=1, max=64)] = 2,
    seconds: Annotated[float, typer.Option(help="Voice each viewer hears, at speaking pace.", min=5)] = 60.0,
    in_process: Annotated[
        float | None,
        typer.Option(
            min=5, metavar="SECONDS", help="Voice of the sessions in process, where less is enough; none: as much."
        ),
    ] = None,
    interrupts: Annotated[int, typer.Option(help="Interrupts of each viewer, afterwards.", min=0)] = 10,
    delay: Annotated[float, typer.Option(help="One way, in milliseconds.", min=0)] = 40.0,
    jitter: Annotated[float, typer.Option(help="On top of it, evenly from 0 to this, in milliseconds.", min=0)] = 30.0,
    loss: Annotated[float, typer.Option(help="Share of segments lost and sent again.", min=0, max=0.5)] = 0.01,
    seed: options.Seed = 0,
    preset: options.Preset = None,
    checkpoint: options.Checkpoint = None,
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """Viewers of a service of its own, each behind a path with delay, jitter and loss; then the same sessions in process.

    Exits with 1 when a session fails, when sound and picture end more than 60 ms apart, or when old sound comes later than a
    block after an interrupt (p95).
    """
    from liveact_services.cli.bench.stream.figures import Figures
    from liveact_services.cli.bench.stream.path import Weather

    if not EXAMPLES.is_dir():
        raise BadInput(f"{EXAMPLES} is not there: run this from a checkout of the repository")
    weather = Weather(delay / 1000, jitter / 1000, loss)
    with reserved_stdout() as stdout:
        with serve.own_service(None, settings, preset=preset, checkpoint=checkpoint) as service:
            width, height = options.parse_size(size)
            if not (width or height):
                width, height = service.config.open_checkpoint().config.limits.default
            served = asyncio.run(
                _served(service.address, weather, seed, clients, clip(seconds), interrupts, (width, height))
            )
            config = service.config
        beside_s = seconds if in_process is None else in_process
        local = asyncio.run(_in_process(config, seed, clients, clip(beside_s), interrupts, (width, height)))
        figures: Figures = Figures(served, local, weather, seconds, beside_s, width, height)
        output = Output(json, stdout=stdout)
        output.show(*figures.tables())
        output.result(figures.to_dict())
    if figures.mistakes:
        raise CheckFailed("; ".join(figures.mistakes))


async def _served(
    address: str,
    weather: Weather,
    seed: int,
    clients: int,
    voice: RecordedVoice,
    interrupts: int,
    size: tuple[int, int],
) -> Seen:
    from liveact_services.cli.bench.stream.path import ShapedPath
    from liveact_services.client import AvatarClient

    portrait = (EXAMPLES / "portrait.jpg").read_bytes()
    async with AsyncExitStack() as paths:
        shaped = [await paths.enter_async_context(ShapedPath(address, weather, seed + n)) for n in range(clients)]

        async def opening(stack: AsyncExitStack, number: int) -> Conversation:
            client = await stack.enter_async_context(AvatarClient(shaped[number].address))
            session = client.session(portrait, size=size, sample_rate_hz=RATE, seed=number)
            return await stack.enter_async_context(session)

        return await _both(opening, clients, voice, interrupts, seed, "through the service")


async def _in_process(
    config: ServiceConfig, seed: int, clients: int, voice: RecordedVoice, interrupts: int, size: tuple[int, int]
) -> Seen:
    import torch

    from liveact_models.config import DEFAULT_PROMPT
    from liveact_services.cli.bench.stream.in_process import LocalSession
    from liveact_services.conductor.local import LocalModels
    from liveact_services.conductor.stages import Codec, Idle, Pacing, SessionSpec
    from liveact_services.replica import pick_device

    torch.set_num_threads(os.cpu_count() or 1)
    opened = config.open_checkpoint()
    device = pick_device(config.device, torch.cuda.device_count())
    models = LocalModels(opened, config.sampling(opened.config), device, config.denoiser.engine)
    portrait = (EXAMPLES / "portrait.jpg").read_bytes()

    async def opening(stack: AsyncExitStack, number: int) -> Conversation:
        spec = SessionSpec(
            session=f"viewer-{number}-{time.monotonic_ns()}", width=size[0], height=size[1], fps=20, seed=number,
            prompt=DEFAULT_PROMPT, rate=RATE, codec=Codec.H264, pacing=Pacing.REALTIME, idle=Idle.ANIMATE,
        )  # fmt: skip
        return await stack.enter_async_context(LocalSession(models, spec, portrait, CREDIT))

    return await _both(opening, clients, voice, interrupts, seed, "in process")


async def _both(opening: Opening, clients: int, voice: RecordedVoice, interrupts: int, seed: int, what: str) -> Seen:
    from liveact_services.cli.bench.stream.figures import Seen
    from liveact_services.cli.bench.stream.viewer import interrupting, speaking

    note(f"{what}: {clients} viewers, {voice.seconds:.0f} s of voice each")
    watching = await _audience(opening, clients, lambda number: speaking(voice))
    note(f"{what}: {clients} viewers, {interrupts} interrupts each")
    short = clip(8.0)
    stopping = await _audience(
        opening, clients if interrupts else 0, lambda number: interrupting(short, interrupts, seed + number)
    )
    return Seen(watching, stopping)


async def _audience(opening: Opening, clients: int, script: Callable[[int], Any]) -> list[Viewing]:
    """So many viewers side by side, each with a script of its own."""
    from liveact_services.cli.bench.stream.viewer import Viewing, watch
    from liveact_services.errors import ClientError

    async def one(number: int) -> Viewing:
        viewing = Viewing()
        await asyncio.sleep(APART_S * number)
        viewing.opened_at = time.perf_counter()
        try:
            async with AsyncExitStack() as stack:
                session = await opening(stack, number)
                await watch(session, viewing, script(number))
                viewing.reconnections = len(getattr(session, "outages", ()))
        except* ClientError as failed:
            viewing.failed = str(failed.exceptions[0])
        return viewing

    return list(await asyncio.gather(*(one(number) for number in range(clients))))
