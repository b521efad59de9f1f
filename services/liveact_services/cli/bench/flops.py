"""`liveact bench flops`: what a frame costs, counted on the meta device."""

from __future__ import annotations

from typing import Annotated

import typer

from liveact_services.cli import options
from liveact_services.cli.output import Output


def flops(
    preset: Annotated[str, typer.Option(help="Size of the model.")] = "soulx-liveact-18b",
    size: options.Size = None,
    json: options.Json = False,
) -> None:
    """Count TFLOP per video frame of a later block, part by part; needs neither weights nor a GPU.

    `tflop_per_frame` is the diffusion transformer with its audio module, all in: what the paper and the released code
    are counted as. The audio encoder and the VAE decoder stand beside it.
    """
    width, height = options.parse_size(size)
    from rich.table import Table

    from liveact_models import config, flops

    if not (width or height):
        width, height = config.preset(preset).limits.default
    cost = flops.count(preset, width, height)
    table = Table("part", "TFLOP a frame", title=f"{cost.preset} at {cost.width}x{cost.height}", title_justify="left")
    for part, tera in cost.parts.items():
        table.add_row(part, f"{tera:.4g}")
    table.add_section()
    table.add_row("transformer, all in", f"{cost.transformer:.4g}")
    table.add_row("  without audio", f"{cost.without_audio:.4g} (paper: {flops.PAPER_WITHOUT_AUDIO})")
    table.add_section()
    table.add_row("audio encoder", f"{cost.audio_encoder:.4g}")
    table.add_row("VAE decoder", f"{cost.vae_decode:.4g}")
    table.add_row("with both", f"{cost.total:.4g}")
    table.add_row("text and image, once a prompt", f"{cost.per_prompt:.4g} TFLOP")
    output = Output(json)
    output.show(table)
    output.result(
        {
            "preset": cost.preset,
            "width": cost.width,
            "height": cost.height,
            "tflop_per_frame": cost.transformer,
            "without_audio": cost.without_audio,
            "paper_without_audio": flops.PAPER_WITHOUT_AUDIO,
            "parts": cost.parts,
            "audio_encoder": cost.audio_encoder,
            "vae_decode": cost.vae_decode,
            "with_encoder_and_decoder": cost.total,
            "tflop_per_prompt": cost.per_prompt,
        }
    )
