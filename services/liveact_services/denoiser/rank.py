"""The seam between a Denoiser replica and what computes for it.

A coordinator speaks to a `RankGroup` and never to a model. A group is one rank in this process (`local_rank.py`), or several, a
process and a device each, that share every step (`shared_ranks.py`) or make a step each (`step_ranks.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from liveact_models.blob import StateError
from liveact_services.conductor.stages import Denoised, Features, SessionSpec
from liveact_services.placement.pins import ReplicaGone


@dataclass(frozen=True)
class Conditions:
    """What a session is conditioned on, as float32 arrays."""

    text: np.ndarray
    """[tokens, text_dim]"""
    clip: np.ndarray
    """[clip_tokens, clip_dim]"""
    reference: np.ndarray
    """[16, 14, H/8, W/8]"""


REFUSALS = (StateError, ReplicaGone, ValueError)
"""What leaves every rank as it was: they are raised before any exchange, by all ranks alike that were asked."""


class RankTime(NamedTuple):
    """When one of several ranks was at its part of a step."""

    rank: int
    began_ns: int
    ended_ns: int
    """In unix time."""


class RankGroup(Protocol):
    """The ranks of one replica, called from one thread, in one order; but steps from a thread a lane."""

    @property
    def lanes(self) -> int:
        """Steps that are made at once, of as many sessions. One lane makes all steps; of several, each that of its number."""

    def open(self, spec: SessionSpec, conditions: Conditions) -> int:
        """Make the session's state; gives its bytes."""

    def steps(self, session: str) -> int:
        """Diffusion steps of each of the session's blocks. From any thread."""

    def begin(self, session: str, block: int, features: Features, text: np.ndarray | None) -> None:
        """Get ready to denoise the block, in place of one begun before. `text` replaces the prompt from this block on."""

    def advance(self, session: str) -> Denoised | None:
        """The next step of the session's block; the last one commits the state and gives the latents.

        Between two steps other sessions may take theirs. Until the last the session is what it was before `begin`.
        """

    def last_step(self, session: str) -> Sequence[RankTime]:
        """When several ranks were at the session's last `advance`, those that had a part in it; of one rank, nothing."""

    def give_up(self, session: str) -> None:
        """Forget the session's unfinished block; none is no error."""

    def memory_of(self, spec: SessionSpec) -> int:
        """Bytes of device memory that such a session takes while a block of it is made. From any thread."""

    def room(self) -> float:
        """Bytes of device memory that all sessions together may take; inf where the device has none of its own."""

    def adopt(self, spec: SessionSpec, exported: bytes) -> int:
        """Go on from an export, whether the session is held or not; gives the block before which it stands.

        Raises `StateError` for one that does not fit.
        """

    def position(self, session: str) -> int:
        """The block that comes next."""

    def export(self, session: str) -> bytes:
        """The session as a value, at a block boundary."""

    def snapshot(self, session: str) -> Callable[[], bytes]:
        """The session as it is at this block boundary, to be serialised on any thread at any later time."""

    def close(self, session: str) -> None:
        """Forget the session; an unknown one is no error."""
