"""The command: blocks of one session part by part, then overlapped, beside the device's own ceilings."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from liveact_services.cli import options
from liveact_services.cli.bench.blocks import WARM_UP_BLOCKS, sized
from liveact_services.cli.output import Output, note, stderr_console

if TYPE_CHECKING:
    from liveact_models.ceilings import Ceilings
    from liveact_services.cli.bench.block.figures import BlockFigures
    from liveact_services.cli.bench.block.roofline import Part
    from liveact_services.cli.bench.block.subject import BlockSubject, PartSeconds


def measure(subject: BlockSubject, blocks: int, threads: int) -> BlockFigures:
    """Blocks in series, then overlapped, each after a warm-up; then the device's ceilings."""
    from rich.progress import track

    from liveact_models.ceilings import measure_ceilings
    from liveact_services.cli.bench.block.figures import BlockFigures
    from liveact_services.cli.bench.block.subject import PartSeconds

    seconds, in_series = PartSeconds(), []
    for block in track(range(WARM_UP_BLOCKS + blocks), "in series", console=stderr_console(), transient=True):
        warm = block >= WARM_UP_BLOCKS
        taken = subject.one_by_one(seconds if warm else None)
        if warm:
            in_series.append(taken)
    subject.restart()
    overlapped = subject.overlapped(WARM_UP_BLOCKS + blocks)[WARM_UP_BLOCKS:]
    engine = f"{subject.choices.describe()}; decoder {subject.decoder_engine.describe()}"
    ceilings = measure_ceilings(subject.device, subject.engine.matrix_dtype)
    weights = _nbytes(subject.denoiser.transformer)
    return BlockFigures(
        subject.config, subject.size, str(subject.device), engine, threads, seconds, in_series,
        overlapped, ceilings, _parts(subject, seconds, ceilings), subject.state.memory_bytes, weights,
    )  # fmt: skip


def _parts(subject: BlockSubject, seconds: PartSeconds, ceilings: Ceilings) -> list[Part]:
    """The parts of a block with what each computes and reads."""
    from liveact_models import flops
    from liveact_models.timeline import BLOCK_LATENTS
    from liveact_services.cli.bench.block.roofline import Part
    from liveact_services.cli.bench.block.subject import LAYER_PARTS

    tflop, sampling = flops.block_parts(subject.config, *subject.size), subject.state.sampling
    layers = subject.denoiser.transformer.layers
    hearing = sampling.num_steps - len(sampling.skip_audio_steps)
    counted = {
        "self_attn": ("self-attention", tflop["self-attention scores"] + tflop["self-attention linears"]),
        "cross_attn": ("cross-attention", tflop["cross-attention"]),
        "audio_cross_attn": ("audio cross-attention", tflop["audio cross-attention"]),
        "ffn": ("ffn", tflop["ffn"]),
    }
    parts, in_layers, rest = [], 0.0, sum(tflop.values()) - tflop["audio encoder"] - tflop["VAE decoder"]
    for name in LAYER_PARTS:
        label, cost = counted[name]
        passes = hearing if name == "audio_cross_attn" else sampling.num_steps
        read = passes * sum(_nbytes(getattr(layer, name)) for layer in layers)
        read += subject.state.memory_bytes if name == "self_attn" else 0
        taken = statistics.median(seconds.layers[name])
        parts.append(Part(label, taken, cost, read / 1e9, ceilings))
        in_layers, rest = in_layers + taken, rest - cost
    denoise_s = statistics.median(seconds.denoise)
    parts.append(Part("norms, modulation, ConvKV, head", max(denoise_s - in_layers, 0.0), rest, 0.0, ceilings))
    audio_s, decode_s = statistics.median(seconds.audio), statistics.median(seconds.decode)
    parts.append(Part("audio encoder", audio_s, tflop["audio encoder"], _nbytes(subject.audio_encoder) / 1e9, ceilings))
    read = BLOCK_LATENTS * _nbytes(subject.decoder)
    parts.append(Part("VAE decoder", decode_s, tflop["VAE decoder"], read / 1e9, ceilings))
    parts.append(Part("H.264", statistics.median(seconds.encode), 0.0, 0.0, ceilings))
    return parts


def _nbytes(module: Any) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def block(
    preset: Annotated[str, typer.Option(help="Size of the model.")] = "tiny",
    size: options.Size = None,
    layers: Annotated[int | None, typer.Option(help="Only so many of the transformer's layers.", min=1)] = None,
    blocks: Annotated[int, typer.Option(help="Blocks that are timed each way, after a warm-up.", min=1)] = 9,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    precision: Annotated[Literal["fp32", "bf16", "fp8"], typer.Option(help="Of the transformer.")] = "fp32",
    cache: Annotated[Literal["exact", "fp8"], typer.Option(help="How memory is kept.")] = "exact",
    attention: Annotated[str, typer.Option(help="A backend of attention, or auto.")] = "auto",
    decoder_precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="Of the decoder.")] = "fp32",
    channels_last: Annotated[bool, typer.Option("--channels-last", help="In the decoder.")] = False,
    compile: Annotated[bool, typer.Option("--compile", help="The decoder's norms and activations.")] = False,
    threads: options.Threads = 2,
    json: options.Json = False,
) -> None:
    """Time a block from its sound to encoded frames, with random weights: part by part, then decoded beside the next one.

    Beside each part stands what it reached of the device's arithmetic and memory, both measured on the device itself.
    """
    import torch

    from liveact_models.engine import Engine
    from liveact_models.vae import DecoderEngine
    from liveact_services.cli.bench.block.subject import BlockSubject
    from liveact_services.replica import pick_device

    torch.set_num_threads(threads)
    config, picture = sized(preset, size, layers)
    where = pick_device(device, 1)
    note(f"making {config.transformer.num_layers} layers of {preset} with random weights on {where}")
    decoder = DecoderEngine(decoder_precision, channels_last, compile)
    subject = BlockSubject(config, picture, where, Engine(precision, attention, cache), decoder)
    note(f"{blocks} blocks at {picture[0]}x{picture[1]}, each way")
    found = measure(subject, blocks, threads)
    output = Output(json)
    output.show(*found.tables())
    output.result(found.to_dict())
