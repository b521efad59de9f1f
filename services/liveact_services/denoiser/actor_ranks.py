"""What groups of ranks have in common whose every rank is a process of its own: a coordinator, and what it knows unasked."""

from __future__ import annotations

import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from liveact_services.denoiser.rank import REFUSALS
from liveact_services.placement.pins import ReplicaGone
from liveact_services.placement.rank_actors import RankActors

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

    from liveact_models.config import ModelConfig
    from liveact_models.session import SessionState
    from liveact_services.conductor.stages import SessionSpec
    from liveact_services.config import DenoiserConfig, ServiceConfig


@dataclass(eq=False)
class Held:
    """What a coordinator knows of a session without asking."""

    spec: SessionSpec
    guided: bool
    steps: int


H = TypeVar("H", bound=Held)


class ActorRanks(ABC, Generic[H]):
    """The part of a `RankGroup` that does not depend on how its ranks share the work."""

    def __init__(
        self,
        makes: Sequence[Callable[[], Any]],
        config: ServiceConfig,
        stage: DenoiserConfig,
        model: ModelConfig,
        group: PlacementGroup,
        end: Callable[[RankActors, str], None] | None = None,
    ) -> None:
        """Start the ranks in the placement group; `end` is what a failed rank comes to, see `RankActors`."""
        # What the ranks sent lies in the object store, and is only read.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        self._cache_dtype, self._model, self._sampling = stage.engine.cache_dtype, model, config.sampling(model)
        self._ranks = RankActors(makes, group, stage.rank_timeout_s, REFUSALS, end)
        self._held: dict[str, H] = {}
        self._lock = threading.Lock()

    @property
    def pids(self) -> list[int]:
        """The ranks' processes."""
        return self._ranks.pids

    def steps(self, session: str) -> int:
        with self._lock:
            return self._find(session).steps

    def memory_of(self, spec: SessionSpec) -> int:
        """Bytes on the rank that holds most."""
        with self._lock:
            alike = [
                h.guided for h in self._held.values() if (h.spec.width, h.spec.height) == (spec.width, spec.height)
            ]
        # While a block is made there are the memory it reads and the one it writes.
        return 2 * self._most_memory(spec, self._sampling.guided or any(alike))

    def room(self) -> float:
        """Bytes on the rank that has fewest."""
        return min(self._ranks.call("room"))

    def export(self, session: str) -> bytes:
        return self.snapshot(session)()

    def snapshot(self, session: str) -> Callable[[], bytes]:
        # Each rank takes its part when its turn comes: before whatever is asked of it after this. Under the lock, so that no
        # block's end, which all are told of, comes between one rank's taking and another's.
        with self._lock:
            taken = self._ranks.submit("take", session)
        return partial(self._exported, self._ranks.submit("give", taken, aside=True))

    def stop(self) -> None:
        """End the ranks."""
        self._ranks.stop()

    @abstractmethod
    def _most_memory(self, spec: SessionSpec, guided: bool) -> int:
        """Bytes of such a session's memory on the rank that holds most of it."""

    @abstractmethod
    def _join(self, parts: list[SessionState]) -> SessionState:
        """The session of which those are the ranks' parts."""

    def _exported(self, calls: list[Any]) -> bytes:
        return self._join([part.state() for part in self._ranks.gather("give", calls)]).export()

    def _hold(self, held: H) -> None:
        with self._lock:
            self._held[held.spec.session] = held

    def _find(self, session: str) -> H:
        """With the lock held. Raises `ReplicaGone` for a session that is not here."""
        held = self._held.get(session)
        if held is None:
            raise ReplicaGone(f"session {session} is not held here")
        return held
