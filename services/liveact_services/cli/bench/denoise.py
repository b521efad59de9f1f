"""`liveact bench denoise`: a block's time, beside that of the released algorithm on the same weights and machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
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
    from liveact_models.denoiser import BlockDenoiser
    from liveact_models.released import ReleasedDenoiser
    from liveact_models.session import SessionState

FRAMES = 32
"""Video frames of a later block."""


@dataclass
class BlockTimes:
    """Blocks of one session made both ways, in turn."""

    config: ModelConfig
    size: tuple[int, int]
    threads: int
    device: str
    dtype: str
    tflop: float
    """Of one block, counted."""
    ours_s: list[float] = field(default_factory=list)
    released_s: list[float] = field(default_factory=list)
    convkv_s: list[float] = field(default_factory=list)
    """What of ours is the memory's upkeep: all layers and steps."""
    ours_cpu_s: list[float] = field(default_factory=list)
    released_cpu_s: list[float] = field(default_factory=list)
    """The processor's time, all threads, on a CPU: what another process takes meanwhile is not in it."""

    @property
    def ratio(self) -> float:
        """Median over the pairs of released / ours; nan where the released one was not run."""
        return _ratio(self.released_s, self.ours_s)

    @property
    def cpu_ratio(self) -> float:
        """The same of the processor's time."""
        return _ratio(self.released_cpu_s, self.ours_cpu_s)

    def note(self, ours: tuple[float, float | None], theirs: tuple[float, float | None] | None) -> None:
        """A pair of blocks: seconds, and where it was measured the processor's."""
        pairs = [(ours, self.ours_s, self.ours_cpu_s)]
        if theirs is not None:
            pairs.append((theirs, self.released_s, self.released_cpu_s))
        for (wall, cpu), walls, cpus in pairs:
            walls.append(wall)
            if cpu is not None:
                cpus.append(cpu)

    def to_dict(self) -> dict[str, Any]:
        ours = statistics.median(self.ours_s)
        return {
            "preset": self.config.name, "layers": self.config.transformer.num_layers, "size": list(self.size),
            "device": self.device, "dtype": self.dtype, "threads": self.threads, "blocks": len(self.ours_s),
            "block_ms": figures(self.ours_s),
            "released_block_ms": figures(self.released_s) if self.released_s else None,
            "released_over_ours": round(self.ratio, 3) if self.released_s else None,
            "released_over_ours_cpu": round(self.cpu_ratio, 3) if self.released_cpu_s else None,
            "convkv_share": round(statistics.median(self.convkv_s) / ours, 4),
            "fps": round(FRAMES / ours, 3), "tflop_per_block": round(self.tflop, 4),
            "tflop_per_s": round(self.tflop / ours, 3),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"), "hardware": hardware(),
        }  # fmt: skip

    def table(self) -> Table:
        from rich.table import Table

        values = self.to_dict()
        width, height = self.size
        title = f"{self.config.name}, {values['layers']} layers at {width}x{height}, {self.dtype} on {self.device}"
        table = Table("a block of 32 frames", "median", "lowest to highest", title=title, title_justify="left")
        for name, found in (("ours", values["block_ms"]), ("released algorithm", values["released_block_ms"])):
            if found is not None:
                add_times(table, name, found)
        table.add_section()
        if self.released_s:
            table.add_row("released / ours", f"{self.ratio:.2f}", "")
        if self.released_cpu_s:
            table.add_row("the same of processor time", f"{self.cpu_ratio:.2f}", "")
        table.add_row("frames a second, ours", f"{values['fps']:.2f}", "")
        table.add_row("TFLOP/s, ours", f"{values['tflop_per_s']:.3f}", f"{values['tflop_per_block']:.4g} TFLOP a block")
        table.add_row("ConvKV's share", f"{values['convkv_share']:.2%}", "paper: 1.9 %")
        return table


def _ratio(released: list[float], ours: list[float]) -> float:
    pairs = list(zip(released, ours, strict=False))
    return statistics.median(r / o for r, o in pairs) if pairs else float("nan")


class _Subject:
    """The model of a size with random weights, and one session made both ways."""

    def __init__(self, config: ModelConfig, size: tuple[int, int], device: str, dtype: torch.dtype) -> None:
        import torch

        from liveact_models.checkpoint.weights import untrained
        from liveact_models.denoiser import BlockDenoiser
        from liveact_models.released import ReleasedDenoiser
        from liveact_models.transformer import LiveActTransformer

        with torch.device("meta"):
            transformer = LiveActTransformer(config.transformer)
        weights = untrained(transformer, f"{config.name}/transformer", device=device, dtype=dtype)
        transformer.load_state_dict(weights, assign=True)
        self.model, self.device = config.transformer, device
        self.ours: BlockDenoiser = BlockDenoiser(transformer, config)
        self.released: ReleasedDenoiser = ReleasedDenoiser(transformer, config)
        self.draw = torch.Generator().manual_seed(0)
        width, height = size
        text = self._random(self.model.text_len, self.model.text_dim)
        clip = self._random(self.model.clip_tokens, self.model.clip_dim)
        reference = self._random(16, 14, height // 8, width // 8)
        self.state: SessionState = self.ours.open(
            width=width, height=height, fps=20, seed=0, text=text, clip=clip, reference=reference
        )
        self.session = self.released.open(0, text, clip, reference)

    def audio(self, block: int) -> torch.Tensor:
        from liveact_models.timeline import block_feature_frames

        return self._random(len(block_feature_frames(block)), self.model.audio_blocks, self.model.audio_channels)

    def timed(self, work: Callable[[], Any]) -> tuple[float, float | None]:
        """Seconds of the device, and of the processor where that is the device."""
        import torch

        from liveact_models.ceilings import seconds_of

        cpu, device = time.process_time(), torch.device(self.device)
        seconds = seconds_of(device, work)
        return seconds, None if device.type == "cuda" else time.process_time() - cpu

    def upkeep(self) -> float:
        """Seconds of the memory's upkeep of one block by itself: every layer and step, from fresh keys and values."""
        import torch

        from liveact_models.memory import next_cache
        from liveact_models.timeline import BLOCK_LATENTS, CONTEXT_SLOTS

        weights = [layer.self_attn.memory_proj_k.weight for layer in self.ours.transformer.layers]
        memory = list(self.state.memory.values())
        tokens = memory[0].shape[2] // CONTEXT_SLOTS * BLOCK_LATENTS
        fresh = [tuple(memory[0].new_ones((tokens, *memory[0].shape[3:])) for _ in range(2)) for _ in weights]

        def compressed() -> None:
            with torch.inference_mode():
                for cache in memory:
                    next_cache(cache, fresh, weights)  # type: ignore[arg-type]

        return self.timed(compressed)[0]

    def _random(self, *shape: int) -> torch.Tensor:
        import torch

        return torch.randn(shape, generator=self.draw).to(self.device)


def measure(
    config: ModelConfig, size: tuple[int, int], device: str, dtype: str, blocks: int, released: bool
) -> BlockTimes:
    """Blocks made our way and, with `released`, as the released code makes them, in turn after a warm-up."""
    import torch
    from rich.progress import track

    from liveact_models.flops import block_tflop

    subject = _Subject(config, size, device, getattr(torch, dtype))
    times = BlockTimes(config, size, torch.get_num_threads(), device, dtype, block_tflop(config, *size))
    for block in track(range(WARM_UP_BLOCKS + blocks), "blocks", console=stderr_console(), transient=True):
        audio = subject.audio(block)
        ours = subject.timed(lambda a=audio, b=block: subject.ours.denoise(subject.state, b, a))  # type: ignore[misc]
        theirs = subject.timed(lambda a=audio: subject.released.denoise(subject.session, a)) if released else None  # type: ignore[misc]
        if block < WARM_UP_BLOCKS:
            continue
        times.convkv_s.append(subject.upkeep())
        times.note(ours, theirs)
    return times


def denoise(
    preset: Annotated[str, typer.Option(help="Size of the model.")] = "tiny",
    size: options.Size = None,
    layers: Annotated[int | None, typer.Option(help="Only so many of its layers.", min=1)] = None,
    blocks: Annotated[int, typer.Option(help="Blocks that are timed, after a warm-up.", min=1)] = 9,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Type of the weights.")] = "float32",
    released: Annotated[bool, typer.Option(help="Run the released algorithm beside ours.")] = True,
    json: options.Json = False,
) -> None:
    """Time a block of the transformer, with random weights, and the same block as the released code would make it.

    Both ways in turn, so that their ratio is the machine's at one time. Any size in multiples of 16 is measured, also one that
    the preset does not serve.
    """
    from liveact_services.replica import pick_device

    config, picture = sized(preset, size, layers)
    where = str(pick_device(device, 1))
    note(f"{blocks} blocks of {preset} at {picture[0]}x{picture[1]}" + (", each made both ways" if released else ""))
    times = measure(config, picture, where, dtype, blocks, released)
    output = Output(json)
    output.show(times.table())
    output.result(times.to_dict())
