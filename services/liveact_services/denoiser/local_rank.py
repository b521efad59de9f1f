"""One rank: the transformer on a device of this process, and the sessions whose memory is on it."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from liveact_models.blob import StateError
from liveact_services.conductor.stages import Denoised, Features, SessionSpec
from liveact_services.denoiser.rank import Conditions, RankTime
from liveact_services.encoders import tensor
from liveact_services.placement.pins import ReplicaGone

if TYPE_CHECKING:
    import torch

    from liveact_models.checkpoint import Checkpoint
    from liveact_models.config import SamplingConfig
    from liveact_models.engine import Engine
    from liveact_models.parallel import Peers, Wire
    from liveact_models.session import SessionState


log = logging.getLogger(__name__)

W = TypeVar("W")
"""What is kept of a block that is under way."""


@dataclass
class _UnderWay:
    """A session's unfinished block."""

    state: SessionState
    """What the session becomes: a copy, since the block may be given up."""
    steps: Generator[int, None, torch.Tensor]
    audio_s: float
    remaining: int
    spent_s: float = 0.0

    def advance(self) -> torch.Tensor | None:
        """One step; after the last the commit, and the latents."""
        next(self.steps)
        self.remaining -= 1
        if self.remaining:
            return None
        try:
            next(self.steps)
        except StopIteration as done:
            return done.value
        raise RuntimeError("a block has more steps than its sampling says")


class DeviceSessions(Generic[W]):
    """The transformer on one device of this process, and the sessions whose memory is there, whole or a part of it."""

    step: int | None = None
    """The diffusion step whose memory is here; None: all of them."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        sampling: SamplingConfig,
        device: torch.device,
        engine: Engine,
        peers: Peers | None = None,
        wire: Wire | None = None,
        offload_blocks: int = 0,
    ) -> None:
        """`peers`: the other ranks, which are called in the same order; `wire`: how tensors travel to them, exactly unless said;
        `offload_blocks`: layers whose matrices stay in host memory.

        Every rank loads all weights: tokens are shared out, not layers, and heads alone in the sessions' memory.
        """
        from liveact_models.denoiser import BlockDenoiser
        from liveact_models.engine import load_transformer
        from liveact_models.parallel import EXACT, share

        began = time.perf_counter()
        transformer, _ = load_transformer(checkpoint, engine, device, offload_blocks=offload_blocks)
        log.info("transformer on %s after %.1f s, %d of its layers in host memory", device, time.perf_counter() - began,
                 offload_blocks)  # fmt: skip
        self._device, self._dtype = device, engine.dtype
        heads = None if peers is None else share(transformer, peers, wire or EXACT)
        self._denoiser = BlockDenoiser(transformer, checkpoint.config, sampling, heads, engine.cache)
        self._config, self._sampling = checkpoint.config, sampling
        self._activations = 0
        """Most bytes that a step has taken and given back."""
        self._states: dict[str, SessionState] = {}
        self._under_way: dict[str, W] = {}
        """The unfinished blocks, by session."""
        self._lock = threading.Lock()

    def open(self, spec: SessionSpec, conditions: Conditions) -> int:
        state = self._denoiser.open(
            width=spec.width, height=spec.height, fps=spec.fps, seed=spec.seed,
            text=self._tensor(conditions.text), clip=self._tensor(conditions.clip),
            reference=self._tensor(conditions.reference),
        )  # fmt: skip
        self._begin_with(spec.session, state)
        return state.memory_bytes

    def give_up(self, session: str) -> None:
        self._under_way.pop(session, None)

    def room(self) -> float:
        import torch

        if self._device.type != "cuda":
            return float("inf")
        free, _ = torch.cuda.mem_get_info(self._device)
        kept = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        with self._lock:
            held = sum(state.memory_bytes for state in self._states.values())
        return free + kept + held - self._activations

    def adopt(self, spec: SessionSpec, exported: bytes) -> int:
        state = self._denoiser.adopt(exported, self.step)
        found, wanted = (state.width, state.height, state.seed), (spec.width, spec.height, spec.seed)
        if found != wanted:
            raise StateError("STATE_FORMAT", f"width, height and seed are {found}; the session's are {wanted}")
        self._begin_with(spec.session, state)
        return state.block

    def position(self, session: str) -> int:
        return self._state(session).block

    def export(self, session: str) -> bytes:
        return self._state(session).export()

    def snapshot(self, session: str) -> Callable[[], bytes]:
        return self.value(session).export

    def value(self, session: str) -> SessionState:
        """The session as it is now, or the rank's part of it, whatever becomes of it."""
        # A block replaces the state's tensors and never writes into them, so a copy of the fields is a copy of the value.
        return dataclasses.replace(self._state(session))

    def close(self, session: str) -> None:
        self.give_up(session)
        with self._lock:
            self._states.pop(session, None)

    def _begin_with(self, session: str, state: SessionState) -> None:
        # A block under way of the session as it was would put its state in this one's place.
        self.give_up(session)
        self._put(session, state)

    def _put(self, session: str, state: SessionState) -> None:
        with self._lock:
            self._states[session] = state

    def _state(self, session: str) -> SessionState:
        with self._lock:
            state = self._states.get(session)
        if state is None:
            raise ReplicaGone(f"session {session} is not held here")
        return state

    @contextmanager
    def _watching_memory(self) -> Iterator[None]:
        import torch

        if self._device.type != "cuda":
            yield
            return
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        yield
        self._activations = max(self._activations, torch.cuda.max_memory_allocated(self._device) - before)

    def _wait_for_device(self) -> None:
        import torch

        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return tensor(array, self._device, self._dtype)


class LocalRank(DeviceSessions[_UnderWay]):
    """One rank that makes all steps, alone or as one among its peers."""

    lanes = 1

    def steps(self, session: str) -> int:
        return self._state(session).sampling.num_steps

    def begin(self, session: str, block: int, features: Features, text: np.ndarray | None) -> None:
        began = time.perf_counter()
        # Tensors are replaced, never written into: this copy costs nothing, and until it is put in its place nothing happened.
        state = dataclasses.replace(self._state(session))
        if text is not None:
            self._denoiser.set_prompt(state, self._tensor(text), state.prompt_version + 1)
        steps = self._denoiser.steps(state, block, self._tensor(features.array))
        under_way = _UnderWay(state, steps, features.audio_s, state.sampling.num_steps)
        under_way.spent_s = time.perf_counter() - began
        self._under_way[session] = under_way

    def advance(self, session: str) -> Denoised | None:
        block = self._under_way.get(session)
        if block is None:
            raise ReplicaGone(f"session {session} was closed while its block was made")
        began = time.perf_counter()
        try:
            with self._watching_memory():
                latents = block.advance()
        except BaseException:
            del self._under_way[session]
            raise
        if latents is None:
            # Kernels still queued would be counted to whoever comes next.
            self._wait_for_device()
            block.spent_s += time.perf_counter() - began
            return None
        array = latents.float().cpu().numpy()
        del self._under_way[session]
        self._put(session, block.state)
        return Denoised(array, block.audio_s, block.spent_s + time.perf_counter() - began)

    def last_step(self, session: str) -> Sequence[RankTime]:
        return ()

    def memory_of(self, spec: SessionSpec) -> int:
        from liveact_models.memory import memory_bytes

        with self._lock:
            alike = [s.memory_bytes for s in self._states.values() if (s.width, s.height) == (spec.width, spec.height)]
        expected = memory_bytes(
            self._config, spec.width, spec.height, self._denoiser.cache_dtype, self._sampling.guided
        )
        # While a block is made there are the memory it reads and the one it writes.
        return 2 * max(expected, *alike, 0)
