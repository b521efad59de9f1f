"""What the replicas that hold sessions share: they say what they hold, and can be drained."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar

from liveact_services.block_order import BlockOrder
from liveact_services.fencing import Fence
from liveact_services.observability.logs import TRACES
from liveact_services.observability.meter import METER
from liveact_services.observability.metrics import CAPACITY, FILLED, HELD, WAITING
from liveact_services.placement.pins import ASK_AGAIN_S, ReplicaFull, ReplicaGone
from liveact_services.replica import Replica, replica_id
from liveact_services.vault.exporter import Exported, Exporter, Snapshot, put_into

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

    from liveact_services.conductor.parts import Part
    from liveact_services.conductor.stages import SessionSpec
    from liveact_services.config import ServiceConfig, StageConfig

UNASKED_S = 90.0
"""Three times what a Gateway lets pass before it asks for a session: one of which nobody hears has lost its Gateway."""
LOOK_S = 5.0
"""How often that is looked at."""


class Stateful:
    """What a replica says of the sessions it holds."""

    def __init__(self, capacity: int, pool: str = "") -> None:
        """`pool`: "" for a replica that serves all."""
        self.capacity = capacity
        """Sessions it takes at most."""
        self.pool = pool
        self.started_at = time.time()
        self._draining = self._let_go = False
        self._turned_away: deque[tuple[float, str]] = deque()

    def held(self) -> int:
        """How many sessions are here."""
        raise NotImplementedError

    def filled(self) -> tuple[float, float]:
        """What its sessions take of it and what it has, in small sessions: their count and the most there may be."""
        return float(self.held()), float(self.capacity)

    def unit(self) -> float:
        """The size of a small session, as `Pin.size` says it of one that seeks a place: here all are alike."""
        return 1.0

    def waiting(self) -> float:
        """What the clients that were told to come back here would take, in full replicas."""
        return 0.0

    def require_room(self, session: str) -> None:
        """Raises `ReplicaFull` where no session more is taken; that one then counts as waiting."""
        if self._draining or self.held() >= self.capacity:
            self.turn_away(session)

    def turn_away(self, session: str, retry_after_s: float | None = None) -> NoReturn:
        """Refuse a session, for whatever reason. Raises `ReplicaFull`, with the seconds until there is room if known."""
        self._turned_away.append((time.monotonic(), session))
        raise ReplicaFull(replica_id(), *(() if retry_after_s is None else (retry_after_s,)))

    async def drain(self, draining: bool = True, let_go: bool = False) -> dict[str, Any]:
        """Take no new sessions, or again; with `let_go`, end once the last session has gone. Gives `drain_status`."""
        self._draining, self._let_go = draining, draining and let_go
        return await self.drain_status()

    async def drain_status(self) -> dict[str, Any]:
        """What `liveact drain` lists of a replica."""
        return {"draining": self._draining, "let_go": self._let_go, "held": self.held(), "capacity": self.capacity}

    async def check_health(self) -> None:
        """Asked by Serve, which ends a replica that fails here and starts another if the count asks for it."""
        if self._let_go and not self.held():
            raise RuntimeError("drained, and let go")

    async def record_routing_stats(self) -> dict[str, Any]:
        """What routers hear of this replica, every few seconds."""
        held, capacity = self.filled()
        self._measure(held, capacity)
        return {"held": held, "capacity": capacity, "unit": self.unit(), "draining": self._draining}

    def _measure(self, filled: float, capacity: float) -> None:
        """Tell how full it is: Serve asks often enough for that, whatever is configured."""
        METER.record(HELD, self.held(), pool=self.pool)
        METER.record(CAPACITY, capacity, pool=self.pool)
        METER.record(FILLED, filled / capacity, pool=self.pool)
        METER.record(WAITING, self._due_again(), pool=self.pool)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What the autoscaling policy hears; numbers only."""
        taken, capacity = self.filled()
        return {
            "held": float(self.held()),
            "used": taken / capacity,
            "waiting": self.waiting(),
            "turned_away": float(self._due_again()),
            "draining": float(self._draining),
            "started_at": self.started_at,
        }

    def _due_again(self) -> int:
        """Sessions turned away that have yet to ask again."""
        # Who asks again does so as a new session: over this time each counts once.
        oldest = time.monotonic() - ASK_AGAIN_S
        while self._turned_away and self._turned_away[0][0] < oldest:
            self._turned_away.popleft()
        return len({session for _, session in self._turned_away})


class Kept(Protocol):
    """What a replica has of one session, whatever else is in it."""

    order: BlockOrder


K = TypeVar("K", bound=Kept)


class StatefulReplica(Replica, Stateful, Generic[K]):
    """Base of Denoiser and VaeDecoder: `self._sessions` is what they hold, by session.

    `self._exporter` brings its part of their values to the Vault, `self._fence` keeps earlier owners of theirs out.
    """

    def __init__(
        self,
        config: ServiceConfig,
        stage: StageConfig,
        capacity: int,
        part: Part,
        vault: DeploymentHandle | None,
        pool: str = "",
    ) -> None:
        Replica.__init__(self, config, stage)
        Stateful.__init__(self, capacity, pool)
        self._sessions: dict[str, K] = {}
        self._exporter = Exporter(put_into(vault, part), config.sessions.export_blocks)
        self._fence = Fence()

    def held(self) -> int:
        """How many sessions are here."""
        return len(self._sessions)

    async def sessions(self) -> list[str]:
        """The sessions held."""
        return list(self._sessions)

    async def keep(self, session: str) -> None:
        """A session that has no blocks to make is still wanted. Raises `ReplicaGone` for one not held here."""
        self._held(session)

    async def hold(self, session: str) -> AsyncIterator[bool]:
        """Stay for this session: Serve does not stop a replica that has calls open. True comes when the session is to leave.

        Ends when the session is closed here, when another call holds it, and when nobody has asked for it for long: Serve does
        not end the calls of a caller that has died. Raises `ReplicaGone` for a session not held here.
        """
        order = self._held(session).order
        mine = order.held_by = object()
        yield False
        while order.held_by is mine and time.monotonic() - order.last_used < UNASKED_S:
            if await order.closed(LOOK_S):
                return
            if order.asked_away():
                yield True

    async def protect(self, session: str, attempt: int) -> None:
        """Export the session soon, whichever boundary comes: the Vault has lost it. Raises `ReplicaGone` and `Superseded`."""
        self._fence.enter(session, attempt)
        held = self._held(session)
        self._exporter.want(session)
        if not held.order.busy:
            self._offer(session, held, held.order.next_block, attempt)

    async def exported(self) -> Exported:
        """What was sent to the Vault from here so far."""
        return self._exporter.exported

    def _come(self, spec: SessionSpec, attempt: int) -> None:
        """A session is to be held here. Raises `Superseded` after a later attempt."""
        TRACES.note(spec.session, spec.trace)
        self._fence.enter(spec.session, attempt)

    def _offer(self, session: str, held: K, block: int, attempt: int, trace: str = "") -> None:
        """The session stands before `block`, where its value may be exported. `trace`: the span of the block before that."""
        self._exporter.offer(session, block, lambda: self._snapshot(held), attempt, trace)

    def _snapshot(self, held: K) -> Snapshot:
        """The session's part as it is at this block boundary."""
        raise NotImplementedError

    def _abandoned(self) -> list[str]:
        """The sessions whose Gateway has died and for which no other has come."""
        oldest = time.monotonic() - self.config.sessions.longest_rest_s
        return [session for session, held in self._sessions.items() if held.order.last_used < oldest]

    async def check_health(self) -> None:
        """Asked by Serve, which replaces a replica whose computing hangs, and ends one that was let go and is empty."""
        await Replica.check_health(self)
        await Stateful.check_health(self)

    def _held(self, session: str) -> K:
        """What is held of a session, which is thereby used. Raises `ReplicaGone` for one not held here."""
        held = self._sessions.get(session)
        if held is None:
            raise ReplicaGone(f"session {session} is not held here")
        held.order.last_used = time.monotonic()
        return held
