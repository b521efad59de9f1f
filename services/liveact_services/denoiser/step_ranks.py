"""A rank a diffusion step, each in a process and on a device of its own: so many sessions are denoised at once.

A step reads only what earlier blocks left at the very same step (see `liveact_models.parallel.steps`), so a rank holds that part
of every session's memory, and what goes from rank to rank is a block's latents. A block takes as long as on one device; as many
sessions as there are ranks have a step made at once, and no step waits for an exchange.

A block changes nothing before all its steps are done. Each rank keeps what its step would leave of the session, and puts it in
its place at `commit`, which is sent to all at once: in every rank it stands before whatever is asked of the session later.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from liveact_models.blob import StateError
from liveact_services.conductor.stages import Denoised, Features, SessionSpec
from liveact_services.denoiser.actor_ranks import ActorRanks, Held
from liveact_services.denoiser.local_rank import DeviceSessions
from liveact_services.denoiser.rank import REFUSALS, Conditions, RankTime
from liveact_services.denoiser.rank_part import RankPart, Takings
from liveact_services.encoders import tensor
from liveact_services.placement.pins import ReplicaGone
from liveact_services.replica import pick_device

if TYPE_CHECKING:
    import torch
    from ray.util.placement_group import PlacementGroup

    from liveact_models.config import ModelConfig
    from liveact_models.session import SessionState
    from liveact_services.config import DenoiserConfig, ServiceConfig
    from liveact_services.placement.rank_actors import RankActors


@dataclass(eq=False)
class _Making:
    """A session's unfinished block, as its coordinator sees it."""

    number: int
    """Tells the ranks this block from one begun in its place."""
    begun: list[Any]
    """Each rank's answer to `begin`, yet to come."""
    audio_s: float
    step: int = 0
    latent: Any = None
    """The answer of the step before, as it lies in the object store."""
    spent_s: float = 0.0


@dataclass(eq=False)
class _Held(Held):
    block: int = 0
    making: _Making | None = None
    committed: list[Any] | None = None
    """Each rank's answer to the last `commit`, yet to come."""
    last: Sequence[RankTime] = ()


class StepRanks(ActorRanks[_Held]):
    """A `RankGroup` whose every step has a rank and a lane of its own."""

    def __init__(
        self,
        config: ServiceConfig,
        stage: DenoiserConfig,
        model: ModelConfig,
        group: PlacementGroup,
        end: Callable[[RankActors, str], None] | None = None,
    ) -> None:
        """Start the ranks in the placement group; `end` is what a failed rank comes to, see `RankActors`."""
        self.lanes = stage.ranks
        self._numbers = count(1)
        makes = [partial(StepRank, step, config, stage) for step in range(stage.ranks)]
        super().__init__(makes, config, stage, model, group, end)

    def open(self, spec: SessionSpec, conditions: Conditions) -> int:
        taken = self._ranks.call("open", spec, conditions)
        self._hold(_Held(spec, self._sampling.guided, self.lanes))
        return sum(taken)

    def begin(self, session: str, block: int, features: Features, text: np.ndarray | None) -> None:
        # Only sent: a rank that is at another session's step is waited for when it is this block's turn there, and what it
        # refuses is told then.
        with self._lock:
            held, number = self._find(session), next(self._numbers)
            begun = self._ranks.submit("begin", session, number, block, features, text, held.committed)
            held.making = _Making(number, begun, features.audio_s)

    def advance(self, session: str) -> Denoised | None:
        with self._lock:
            held = self._find(session)
            making = held.making
            if making is None:
                raise ReplicaGone(f"session {session} was closed while its block was made")
            rank = making.step
            call = self._ranks.submit_to(rank, "advance", session, making.number, making.begun[rank], making.latent)
        try:
            answer = self._ranks.answer("advance", rank, call)
        except REFUSALS:
            with self._lock:
                if held.making is making:
                    held.making = None
            raise
        held.last = [RankTime(rank, answer.began_ns, answer.ended_ns)]
        making.step, making.latent = rank + 1, call
        making.spent_s += (answer.ended_ns - answer.began_ns) / 1e9
        if making.step < self.lanes:
            return None
        self._commit(session, held, making)
        return Denoised(answer.value, making.audio_s, making.spent_s)

    def last_step(self, session: str) -> Sequence[RankTime]:
        with self._lock:
            held = self._held.get(session)
        return () if held is None else held.last

    def give_up(self, session: str) -> None:
        with self._lock:
            if (held := self._held.get(session)) is None:
                return
            held.making = None
            self._ranks.submit("give_up", session)

    def adopt(self, spec: SessionSpec, exported: bytes) -> int:
        block, guided = self._ranks.call("adopt_part", spec, exported)[0]
        self._hold(_Held(spec, guided, self.lanes, block))
        return block

    def position(self, session: str) -> int:
        with self._lock:
            held = self._find(session)
            # A step may still be at it whose caller has gone: it does not count any more, or the session would move on unseen.
            held.making = None
            return held.block

    def close(self, session: str) -> None:
        with self._lock:
            self._held.pop(session, None)
            self._ranks.submit("close", session)

    def _commit(self, session: str, held: _Held, making: _Making) -> None:
        with self._lock:
            if self._held.get(session) is not held or held.making is not making:
                raise ReplicaGone(f"session {session} began anew or was closed while its block was made")
            held.making, held.block = None, held.block + 1
            held.committed = self._ranks.submit("commit", session, making.number)

    def _most_memory(self, spec: SessionSpec, guided: bool) -> int:
        from liveact_models.memory import memory_bytes

        return max(
            memory_bytes(self._model, spec.width, spec.height, self._cache_dtype, guided, step=step)
            for step in range(self.lanes)
        )

    def _join(self, parts: list[SessionState]) -> SessionState:
        from liveact_models.session import SessionState

        return SessionState.of_steps(parts)


@dataclass
class _UnderWay:
    """A block on its way through the ranks, as one of them sees it."""

    number: int
    state: SessionState
    """What the session becomes here, once the block is committed."""
    audio: torch.Tensor


class StepRank(DeviceSessions[_UnderWay]):
    """One step of all sessions' blocks, in a process of its own."""

    step: int

    def __init__(self, step: int, config: ServiceConfig, stage: DenoiserConfig) -> None:
        """Load the weights: all of them, for every step runs through all layers."""
        import torch

        torch.set_num_threads(stage.threads)
        device, checkpoint = pick_device(config.device, stage.num_gpus), config.open_checkpoint()
        sampling = config.sampling(checkpoint.config)
        super().__init__(checkpoint, sampling, device, stage.engine, offload_blocks=stage.offload_blocks)
        self.step, self._ranks = step, stage.ranks
        self._takings = Takings()

    def adopt_part(self, spec: SessionSpec, exported: bytes) -> tuple[int, bool]:
        """As `adopt`; gives the block before which the session stands, and whether it is guided."""
        self.adopt(spec, exported)
        state = self._state(spec.session)
        return state.block, state.sampling.guided

    def begin(
        self, session: str, number: int, block: int, features: Features, text: np.ndarray | None, committed: object
    ) -> None:
        """Get ready for this step of the block; `committed` has come once the block before is in its place."""
        state = dataclasses.replace(self._state(session))
        if block != state.block:
            raise ValueError(f"block {block}: the session's next block is {state.block}")
        audio = self._tensor(features.array)
        self._denoiser.check_audio(block, audio)
        if text is not None:
            self._denoiser.set_prompt(state, self._tensor(text), state.prompt_version + 1)
        self._under_way[session] = _UnderWay(number, state, audio)

    def advance(self, session: str, number: int, begun: object, latent: np.ndarray | None) -> np.ndarray:
        """This step of the block: the latents of the step before, None at the first, to those of the next.

        [16, 6 or 8, height / 8, width / 8] in float32.
        """
        import torch

        under_way = self._current(session, number)
        if under_way is None:
            raise ReplicaGone(f"session {session} was closed while its block was made")
        state = under_way.state
        before = None if latent is None else tensor(latent, self._device, torch.float32)
        with self._watching_memory():
            after, state.memory = self._denoiser.step(state, self.step, under_way.audio, before)
        return after.float().cpu().numpy()

    def commit(self, session: str, number: int) -> None:
        """The block's steps are done on all ranks. One that was given up here meanwhile is no error."""
        under_way = self._current(session, number)
        if under_way is not None:
            del self._under_way[session]
            self._put(session, dataclasses.replace(under_way.state, block=under_way.state.block + 1))

    def take(self, session: str) -> int:
        """Keep the session as it is now until it is given."""
        return self._takings.take(self.value(session))

    def give(self, taking: int) -> RankPart:
        """The rank's part of what was taken, once. From another thread than the rest."""
        return self._takings.give(taking)

    def _current(self, session: str, number: int) -> _UnderWay | None:
        under_way = self._under_way.get(session)
        return under_way if under_way is not None and under_way.number == number else None

    def _begin_with(self, session: str, state: SessionState) -> None:
        steps = state.sampling.num_steps
        if steps != self._ranks:
            raise StateError(
                "STATE_FORMAT", f"the session is denoised in {steps} steps; accepted here are {self._ranks}, one a rank"
            )
        super()._begin_with(session, state.at_step(self.step))
