"""One line of the parity report, and the measure it states."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ParityRow:
    """How far one output of one module lies from its golden tensor."""

    module: str
    variant: str
    what: str
    error: float
    """`relative_error`; NaN where the output is not finite."""


def relative_error(ours: torch.Tensor, golden: torch.Tensor) -> float:
    """||ours - golden|| / ||golden||, Euclidean, in float64. Raises `ValueError` when the shapes differ."""
    if ours.shape != golden.shape:
        raise ValueError(f"shapes differ: ours {tuple(ours.shape)}, golden {tuple(golden.shape)}")
    expected = golden.detach().double().cpu()
    return float((ours.detach().double().cpu() - expected).norm() / expected.norm())
