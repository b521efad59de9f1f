"""What the measurements of a block share: sizes of models and pictures, warm-up, and how times are told."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING

from liveact_services.cli import options
from liveact_services.cli.exits import BadInput

if TYPE_CHECKING:
    from rich.table import Table

    from liveact_models.config import ModelConfig

WARM_UP_BLOCKS = 3
"""Blocks 0 and 1 fill the window, and from block 2 on every block costs the same."""


def significant(value: float) -> float:
    """Four digits that count: a small device's rates are told as exactly as a large one's."""
    return float(f"{value:.4g}")


def figures(seconds: list[float]) -> dict[str, float]:
    """Median, least and most in milliseconds."""
    ms = sorted(1000 * s for s in seconds)
    return {"median": round(statistics.median(ms), 2), "min": round(ms[0], 2), "max": round(ms[-1], 2)}


def add_times(table: Table, name: str, found: Mapping[str, float]) -> None:
    """A row of `figures`."""
    table.add_row(name, f"{found['median']:.1f} ms", f"{found['min']:.1f} to {found['max']:.1f} ms")


def sized(preset: str, size: str | None, layers: int | None) -> tuple[ModelConfig, tuple[int, int]]:
    """The preset with so many of its layers, and the picture's size: any multiples of 16, also one that it does not serve."""
    from liveact_models import config as configs

    chosen = configs.preset(preset)
    width, height = options.parse_size(size)
    width, height = (width, height) if width or height else chosen.limits.default
    if width % 16 or height % 16 or not (width and height):
        raise BadInput(f"size {width}x{height}: accepted are multiples of 16")
    model = dataclasses.replace(chosen.transformer, num_layers=layers or chosen.transformer.num_layers)
    limits = dataclasses.replace(chosen.limits, minimum=16, maximum=max(width, height), max_pixels=width * height)
    return dataclasses.replace(chosen, transformer=model, limits=limits), (width, height)
