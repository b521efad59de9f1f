"""The seam between a Denoiser replica and what computes for it.

A coordinator speaks to a `RankGroup` and never to a model: here a group is one rank in this process; two ranks, one GPU each,
stand behind the same verbs.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from liveact_models.blob import StateError
from liveact_services.conductor.stages import Denoised, Features, SessionSpec
from liveact_services.encoders import tensor
from liveact_services.placement.pins import ReplicaGone

if TYPE_CHECKING:
    import torch

    from liveact_models.checkpoint import Checkpoint
    from liveact_models.config import SamplingConfig
    from liveact_models.session import SessionState


@dataclass(frozen=True)
class Conditions:
    """What a session is conditioned on, as float32 arrays."""

    text: np.ndarray
    """[tokens, text_dim]"""
    clip: np.ndarray
    """[clip_tokens, clip_dim]"""
    reference: np.ndarray
    """[16, 14, H/8, W/8]"""


class RankGroup(Protocol):
    """The ranks of one replica, called from one thread, in one order."""

    def open(self, spec: SessionSpec, conditions: Conditions) -> int:
        """Make the session's state; gives its bytes."""

    def denoise(self, session: str, block: int, features: Features, text: np.ndarray | None) -> Denoised:
        """The block's latents; commits the state. `text` replaces the prompt from this block on."""

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


class LocalRank:
    """One rank: the whole transformer on one device of this process."""

    def __init__(
        self, checkpoint: Checkpoint, sampling: SamplingConfig, device: torch.device, dtype: torch.dtype
    ) -> None:
        from liveact_models.denoiser import BlockDenoiser

        self._device, self._dtype = device, dtype
        transformer = checkpoint.load_transformer(device=str(device), dtype=dtype)
        self._denoiser = BlockDenoiser(transformer, checkpoint.config, sampling)
        self._states: dict[str, SessionState] = {}
        self._lock = threading.Lock()

    def open(self, spec: SessionSpec, conditions: Conditions) -> int:
        state = self._denoiser.open(
            width=spec.width, height=spec.height, fps=spec.fps, seed=spec.seed,
            text=self._tensor(conditions.text), clip=self._tensor(conditions.clip),
            reference=self._tensor(conditions.reference),
        )  # fmt: skip
        with self._lock:
            self._states[spec.session] = state
        return state.memory_bytes

    def denoise(self, session: str, block: int, features: Features, text: np.ndarray | None) -> Denoised:
        state = self._state(session)
        began = time.perf_counter()
        if text is not None:
            self._denoiser.set_prompt(state, self._tensor(text), state.prompt_version + 1)
        latents = self._denoiser.denoise(state, block, self._tensor(features.array)).float().cpu().numpy()
        return Denoised(latents, features.audio_s, time.perf_counter() - began)

    def adopt(self, spec: SessionSpec, exported: bytes) -> int:
        state = self._denoiser.adopt(exported)
        found, wanted = (state.width, state.height, state.seed), (spec.width, spec.height, spec.seed)
        if found != wanted:
            raise StateError("STATE_FORMAT", f"width, height and seed are {found}; the session's are {wanted}")
        with self._lock:
            self._states[spec.session] = state
        return state.block

    def position(self, session: str) -> int:
        return self._state(session).block

    def export(self, session: str) -> bytes:
        return self._state(session).export()

    def snapshot(self, session: str) -> Callable[[], bytes]:
        # A block replaces the state's tensors and never writes into them, so a copy of the fields is a copy of the value.
        return dataclasses.replace(self._state(session)).export

    def close(self, session: str) -> None:
        with self._lock:
            self._states.pop(session, None)

    def _state(self, session: str) -> SessionState:
        with self._lock:
            state = self._states.get(session)
        if state is None:
            raise ReplicaGone(f"session {session} is not held here")
        return state

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return tensor(array, self._device, self._dtype)
