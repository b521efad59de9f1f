"""Rotary positions by slot (model-facts, "Neighbor Forcing and the KV cache").

The position in time is the slot of the window, 0-13, never the age of the session: an hour uses the table of a second.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from liveact_models.timeline import WINDOW_SLOTS

THETA = 10000.0


class RopeTable(NamedTuple):
    """The turn of every token's angles, complex64 [tokens, 1, head_dim / 2]; the 1 stands for the heads."""

    turn: Tensor

    def tokens(self, start: int, stop: int) -> RopeTable:
        return RopeTable(self.turn[start:stop])


@lru_cache(maxsize=16)
def rope_table(head_dim: int, height: int, width: int, device: torch.device) -> RopeTable:
    """The table of all 14 slots of a grid of `height` x `width` tokens, row-major (slot, row, column).

    The head dim is split d - 4 * (d // 6), 2 * (d // 6), 2 * (d // 6) between time, height and width.
    """
    side = 2 * (head_dim // 6)
    # A table made under inference mode could not be used for training later in the same process.
    with torch.inference_mode(False), torch.no_grad():
        angles = torch.cat(
            [
                _angles(WINDOW_SLOTS, head_dim - 2 * side, device)[:, None, None].expand(-1, height, width, -1),
                _angles(height, side, device)[None, :, None].expand(WINDOW_SLOTS, -1, width, -1),
                _angles(width, side, device)[None, None, :].expand(WINDOW_SLOTS, height, -1, -1),
            ],
            dim=-1,
        ).reshape(WINDOW_SLOTS * height * width, 1, head_dim // 2)
        return RopeTable(torch.complex(angles.cos().float(), angles.sin().float()))


def _angles(positions: int, dim: int, device: torch.device) -> Tensor:
    """position * theta^(-2i / dim): [positions, dim / 2] in float64."""
    frequencies = THETA ** -(torch.arange(0, dim, 2, dtype=torch.float64, device=device) / dim)
    return torch.outer(torch.arange(positions, dtype=torch.float64, device=device), frequencies)


def rotate(x: Tensor, table: RopeTable, out: Tensor | None = None) -> Tensor:
    """Turn adjacent pairs of the head dim by the table's angles: [tokens, heads, head_dim], computed in float32.

    `out`, where given, takes the result. One product of complex numbers: ten times as fast on a CPU as the four real ones.
    """
    pairs = _pairs(x.float())
    if out is not None and out.dtype == torch.float32 and not torch.is_grad_enabled():
        torch.mul(pairs, table.turn, out=_pairs(out))
        return out
    turned = torch.view_as_real(pairs * table.turn).flatten(-2)
    return turned.to(x.dtype) if out is None else out.copy_(turned)


def _pairs(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))
