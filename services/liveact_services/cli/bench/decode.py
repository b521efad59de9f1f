"""`liveact bench decode`: latents to pixels on the host, latent frame by latent frame, with random weights."""

from __future__ import annotations

import dataclasses
import statistics
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from liveact_models.hardware import hardware
from liveact_services.cli import options
from liveact_services.cli.bench.blocks import WARM_UP_BLOCKS, add_times, figures, sized
from liveact_services.cli.output import Output, note, stderr_console

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from liveact_models.config import ModelConfig
    from liveact_models.vae import DecoderEngine


@dataclass(frozen=True)
class DecodeTimes:
    """Blocks of 8 latent frames, decoded with the feature cache kept."""

    config: ModelConfig
    size: tuple[int, int]
    device: str
    threads: int
    engine: DecoderEngine
    tflop: float
    """Of a block, counted."""
    ceiling: float
    """TFLOP/s of a large matrix product on this device."""
    cache_bytes: int
    block_s: list[float]
    first_s: list[float]
    """Of each block, until its first four frames are there."""

    def to_dict(self) -> dict[str, Any]:
        from liveact_models.timeline import BLOCK_FRAMES

        block_s = statistics.median(self.block_s)
        return {
            "preset": self.config.name, "size": list(self.size), "device": self.device, "threads": self.threads,
            **dataclasses.asdict(self.engine),
            "blocks": len(self.block_s), "block_ms": figures(self.block_s), "first_frames_ms": figures(self.first_s),
            "fps": round(BLOCK_FRAMES / block_s, 2), "tflop_per_block": round(self.tflop, 4),
            "tflop_per_s": round(self.tflop / block_s, 4), "of_arithmetic": round(self.tflop / block_s / self.ceiling, 4),
            "cache_mib": round(self.cache_bytes / 2**20, 2),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"), "hardware": hardware(),
        }  # fmt: skip

    def table(self) -> Table:
        from rich.table import Table

        values, (width, height) = self.to_dict(), self.size
        title = f"decoder of {self.config.name} at {width}x{height} on {self.device}, {self.engine.describe()}"
        table = Table("a block of 32 frames", "median", "lowest to highest", title=title, title_justify="left")
        for name, key in (("all frames", "block_ms"), ("the first four", "first_frames_ms")):
            add_times(table, name, values[key])
        table.add_section()
        table.add_row("frames a second", f"{values['fps']:.1f}", "")
        reached = f"{values['of_arithmetic']:.0%} of {self.ceiling:.3g}, measured here"
        table.add_row("TFLOP/s", f"{values['tflop_per_s']:.3g}", reached)
        table.add_row("feature cache of a session", f"{values['cache_mib']:.1f} MiB", "")
        return table


def measure(
    config: ModelConfig, size: tuple[int, int], device: torch.device, blocks: int, engine: DecoderEngine
) -> DecodeTimes:
    """Blocks of random latents, after a warm-up."""
    import torch
    from rich.progress import track

    from liveact_models.ceilings import measure_ceilings
    from liveact_models.checkpoint import open_checkpoint
    from liveact_models.flops import block_parts
    from liveact_models.timeline import BLOCK_LATENTS
    from liveact_models.vae import load_decoder, to_rgb

    vae = load_decoder(open_checkpoint("untrained", config), engine, device)
    width, height = size
    cache, draw = vae.new_cache(), torch.Generator().manual_seed(0)
    block_s: list[float] = []
    first_s: list[float] = []
    for block in track(range(WARM_UP_BLOCKS + blocks), "blocks", console=stderr_console(), transient=True):
        latents = torch.randn((16, BLOCK_LATENTS, height // 8, width // 8), generator=draw).to(device)
        began = time.perf_counter()
        # On the host a frame is there for whoever encodes it; on a GPU that is also when its time is known.
        came = []
        for part in vae.decode_stream(latents, cache):
            to_rgb(part).cpu()
            came.append(time.perf_counter())
        if block >= WARM_UP_BLOCKS:
            first_s.append(came[0] - began)
            block_s.append(came[-1] - began)
    ceiling = measure_ceilings(device, engine.dtype).tflop_per_s
    tflop = block_parts(config, width, height)["VAE decoder"]
    return DecodeTimes(
        config, size, str(device), torch.get_num_threads(), engine, tflop, ceiling, cache.nbytes, block_s, first_s
    )


def decode(
    preset: Annotated[str, typer.Option(help="Size of the model.")] = "tiny",
    size: options.Size = None,
    blocks: Annotated[int, typer.Option(help="Blocks that are timed, after a warm-up.", min=1)] = 9,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="What it computes in.")] = "fp32",
    channels_last: Annotated[bool, typer.Option("--channels-last", help="A pixel's features side by side.")] = False,
    compile: Annotated[bool, typer.Option("--compile", help="Norms and activations in one compiled pass.")] = False,
    threads: options.Threads = 2,
    json: options.Json = False,
) -> None:
    """Time the VAE decoder alone on blocks of random latents, with random weights."""
    import torch

    from liveact_models.vae import DecoderEngine
    from liveact_services.replica import pick_device

    torch.set_num_threads(threads)
    config, picture = sized(preset, size, None)
    note(f"{blocks} blocks of {preset} at {picture[0]}x{picture[1]}")
    times = measure(config, picture, pick_device(device, 1), blocks, DecoderEngine(precision, channels_last, compile))
    output = Output(json)
    output.show(times.table())
    output.result(times.to_dict())
