"""Several ranks that share every step, each in a process and on a device of its own: tokens, and in memory heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from liveact_services.conductor.stages import Denoised, Features, SessionSpec
from liveact_services.denoiser.actor_ranks import ActorRanks, Held
from liveact_services.denoiser.local_rank import LocalRank
from liveact_services.denoiser.rank import Conditions, RankTime
from liveact_services.denoiser.rank_part import RankPart, Takings
from liveact_services.replica import pick_device

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

    from liveact_models.config import ModelConfig, SamplingConfig
    from liveact_models.session import SessionState
    from liveact_services.config import DenoiserConfig, ServiceConfig
    from liveact_services.placement.rank_actors import RankActors


class SharedRanks(ActorRanks[Held]):
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

        self._most_heads = max(len(heads) for heads in heads_of(model.transformer.num_heads, stage.ranks))
        self._store = host_store(stage.rank_timeout_s)
        self._last_step: list[RankTime] = []
        makes = [partial(SharedRank, rank, self._store.port, config, stage) for rank in range(stage.ranks)]
        super().__init__(makes, config, stage, model, group, end)

    def open(self, spec: SessionSpec, conditions: Conditions) -> int:
        taken = self._ranks.call("open", spec, conditions)
        self._hold(Held(spec, self._sampling.guided, self._sampling.num_steps))
        return sum(taken)

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

    def adopt(self, spec: SessionSpec, exported: bytes) -> int:
        block = self._ranks.call("adopt", spec, exported)[0]
        sampling = self._ranks.call("sampling", spec.session)[0]
        self._hold(Held(spec, sampling.guided, sampling.num_steps))
        return block

    def position(self, session: str) -> int:
        return self._ranks.call("position", session)[0]

    def close(self, session: str) -> None:
        self._ranks.call("close", session)
        with self._lock:
            self._held.pop(session, None)

    def _most_memory(self, spec: SessionSpec, guided: bool) -> int:
        from liveact_models.memory import memory_bytes

        return memory_bytes(self._model, spec.width, spec.height, self._cache_dtype, guided, self._most_heads)

    def _join(self, parts: list[SessionState]) -> SessionState:
        from liveact_models.session import SessionState

        return SessionState.joined(parts)


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
