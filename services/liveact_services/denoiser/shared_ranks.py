"""Several ranks that share every step, each in a process and on a device of its own: tokens, and in memory heads."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from liveact_services.conductor.stages import Denoised, Features, SessionSpec
from liveact_services.denoiser.local_rank import LocalRank
from liveact_services.denoiser.rank import REFUSALS, Conditions, RankTime
from liveact_services.denoiser.rank_part import RankPart, Takings
from liveact_services.placement.pins import ReplicaGone
from liveact_services.placement.rank_actors import RankActors
from liveact_services.replica import pick_device

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

    from liveact_models.config import ModelConfig, SamplingConfig
    from liveact_services.config import DenoiserConfig, ServiceConfig


@dataclass(frozen=True)
class _Held:
    """What a coordinator knows of a session without asking."""

    width: int
    height: int
    steps: int
    guided: bool


class SharedRanks:
    """A `RankGroup` of several ranks: every verb goes to all of them, and the first rank's answer is the group's."""

    lanes = 1

    def __init__(
        self,
        config: ServiceConfig,
        stage: DenoiserConfig,
        model: ModelConfig,
        group: PlacementGroup,
        end: Callable[[RankActors, str], None] | None = None,
    ) -> None:
        """Start the ranks in the placement group; `end` is what a failed rank comes to, see `RankActors`."""
        from liveact_models.parallel import heads_of, host_store

        # What the ranks sent lies in the object store, and is only read.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        self._engine, self._model, self._sampling = stage.engine, model, config.sampling(model)
        self._most_heads = max(len(heads) for heads in heads_of(model.transformer.num_heads, stage.ranks))
        self._store = host_store(stage.rank_timeout_s)
        makes = [partial(SharedRank, rank, self._store.port, config, stage) for rank in range(stage.ranks)]
        self._ranks = RankActors(makes, group, stage.rank_timeout_s, REFUSALS, end)
        self._held: dict[str, _Held] = {}
        self._last_step: list[RankTime] = []
        self._lock = threading.Lock()

    @property
    def pids(self) -> list[int]:
        """The ranks' processes."""
        return self._ranks.pids

    def open(self, spec: SessionSpec, conditions: Conditions) -> int:
        taken = self._ranks.call("open", spec, conditions)
        self._hold(spec)
        return sum(taken)

    def steps(self, session: str) -> int:
        with self._lock:
            held = self._held.get(session)
        if held is None:
            raise ReplicaGone(f"session {session} is not held here")
        return held.steps

    def begin(self, session: str, block: int, features: Features, text: np.ndarray | None) -> None:
        self._ranks.call("begin", session, block, features, text)

    def advance(self, session: str) -> Denoised | None:
        answers = self._ranks.answers("advance", self._ranks.submit("advance", session))
        self._last_step = [RankTime(rank, one.began_ns, one.ended_ns) for rank, one in enumerate(answers)]
        return answers[0].value

    def last_step(self, session: str) -> Sequence[RankTime]:
        return self._last_step

    def give_up(self, session: str) -> None:
        self._ranks.call("give_up", session)

    def memory_of(self, spec: SessionSpec) -> int:
        """Bytes on the rank that holds most heads."""
        from liveact_models.memory import memory_bytes

        with self._lock:
            alike = [s.guided for s in self._held.values() if (s.width, s.height) == (spec.width, spec.height)]
        guided = self._sampling.guided or any(alike)
        # While a block is made there are the memory it reads and the one it writes.
        return 2 * memory_bytes(
            self._model, spec.width, spec.height, self._engine.cache_dtype, guided, self._most_heads
        )

    def room(self) -> float:
        """Bytes on the rank that has fewest."""
        return min(self._ranks.call("room"))

    def adopt(self, spec: SessionSpec, exported: bytes) -> int:
        block = self._ranks.call("adopt", spec, exported)[0]
        sampling = self._ranks.call("sampling", spec.session)[0]
        self._hold(spec, sampling.num_steps, sampling.guided)
        return block

    def position(self, session: str) -> int:
        return self._ranks.call("position", session)[0]

    def export(self, session: str) -> bytes:
        return self.snapshot(session)()

    def snapshot(self, session: str) -> Callable[[], bytes]:
        # Each rank takes its part when its turn comes: before any later block, whose steps are asked for after this.
        taken = self._ranks.submit("take", session)
        return partial(self._joined, self._ranks.submit("give", taken, aside=True))

    def close(self, session: str) -> None:
        self._ranks.call("close", session)
        with self._lock:
            self._held.pop(session, None)

    def stop(self) -> None:
        """End the ranks."""
        self._ranks.stop()

    def _hold(self, spec: SessionSpec, steps: int | None = None, guided: bool | None = None) -> None:
        steps = self._sampling.num_steps if steps is None else steps
        guided = self._sampling.guided if guided is None else guided
        with self._lock:
            self._held[spec.session] = _Held(spec.width, spec.height, steps, guided)

    def _joined(self, calls: list[Any]) -> bytes:
        from liveact_models.session import SessionState

        return SessionState.joined([part.state() for part in self._ranks.gather("give", calls)]).export()


class SharedRank(LocalRank):
    """One rank of several, in a process of its own."""

    def __init__(self, rank: int, port: int, config: ServiceConfig, stage: DenoiserConfig) -> None:
        """Meet the others at the store of that port, and load the weights: all of them, for tokens are shared, not layers."""
        import torch

        from liveact_models.parallel import WIRES, join_group

        torch.set_num_threads(stage.threads)
        device = pick_device(config.device, stage.num_gpus)
        peers = join_group(rank, stage.ranks, port, device, stage.rank_timeout_s)
        checkpoint = config.open_checkpoint()
        sampling, wire = config.sampling(checkpoint.config), WIRES[stage.exchange]
        super().__init__(checkpoint, sampling, device, stage.engine, peers, wire, stage.offload_blocks)
        self._first = rank == 0
        self._takings = Takings()

    def advance(self, session: str) -> Denoised | None:
        """As one rank alone does; the latents, which all ranks have, are given by the first."""
        denoised = super().advance(session)
        return denoised if self._first else None

    def sampling(self, session: str) -> SamplingConfig:
        """How the session's blocks are sampled."""
        return self._state(session).sampling

    def take(self, session: str) -> int:
        """Keep the session as it is now until it is given."""
        return self._takings.take(self.value(session))

    def give(self, taking: int) -> RankPart:
        """The rank's part of what was taken, once. From another thread than the rest."""
        return self._takings.give(taking)
