"""A rank's part of a session on its way out of the rank's process."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from liveact_models.session import SessionState


class Takings:
    """Parts of sessions as they were, kept until they are given."""

    def __init__(self) -> None:
        self._taken: dict[int, SessionState] = {}
        self._number = 0

    def take(self, state: SessionState) -> int:
        """Keep the state, whose tensors are never written into; gives what it is asked for by."""
        self._number += 1
        self._taken[self._number] = state
        return self._number

    def give(self, taking: int) -> RankPart:
        """What was taken, once. From any thread."""
        return RankPart.of(self._taken.pop(taking))


@dataclass(frozen=True)
class RankPart:
    """A rank's part of a session on its way: memory as arrays of bytes, which cross the object store without a copy."""

    rest: SessionState
    memory: dict[str, np.ndarray]
    """uint8 [layers, 2, tokens, heads, head_dim * bytes of the type]"""
    dtypes: dict[str, str]

    @classmethod
    def of(cls, state: SessionState) -> RankPart:
        import torch

        rest = dataclasses.replace(state, memory={}, conditioning=None).to("cpu")
        held = {name: tensor.cpu().contiguous() for name, tensor in state.memory.items()}
        dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in held.items()}
        memory = {name: tensor.view(torch.uint8).numpy() for name, tensor in held.items()}
        return cls(rest, memory, dtypes)

    def state(self) -> SessionState:
        import torch

        memory = {
            name: torch.from_numpy(array).view(getattr(torch, self.dtypes[name])) for name, array in self.memory.items()
        }
        return dataclasses.replace(self.rest, memory=memory)
