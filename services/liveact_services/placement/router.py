"""The strict router of stateful deployments: a pinned call reaches its replica or fails at once.

Built on Serve's alpha request-router API, hence `ray` is pinned and tests/test_placement.py holds the contract. Serve pickles
this module's classes by value, with the objects they name, and modules by name: hence `departing.BOARD`.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Iterable
from heapq import nlargest
from typing import TYPE_CHECKING, Any

from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from liveact_services.placement import departing
from liveact_services.placement.choose import ReplicaView, choose
from liveact_services.placement.gathering import MAKERS, PIECES
from liveact_services.placement.pins import NoReplica, Pin, ReplicaGone

if TYPE_CHECKING:
    from ray.serve._private.common import ReplicaID


DEATH_S = 2.0
"""How often it is looked whether a replica that has left the list still lives."""


class _Telling(RequestRouter):
    """Has the departure board say who is listed."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._tell()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._tell()

    def _tell(self, left: Iterable[ReplicaID] = ()) -> None:
        away = frozenset(left)
        listed = [replica for replica in self._replicas.values() if replica.replica_id not in away]
        drain = [replica for replica in listed if (replica.routing_stats or {}).get("draining")]
        room = sum(_room(replica) for replica in listed if replica not in drain)
        views = [_view(replica, False) for replica in listed]
        free = nlargest(MAKERS + PIECES, ((v.free, v.id) for v in views if not v.draining and 0 < v.free < math.inf))
        listing = departing.Listing(
            _ids(r.replica_id for r in listed), _ids(r.replica_id for r in drain), _ids(away), room,
            tuple((replica, size) for size, replica in free),
        )  # fmt: skip
        departing.BOARD.tell(departing.key(self._deployment_id.app_name, self._deployment_id.name), listing)


def _room(replica: RunningReplica) -> float:
    stats = replica.routing_stats or {}
    return max(0.0, float(stats.get("capacity", 0.0)) - float(stats.get("held", 0.0)))


def _ids(replicas: Iterable[ReplicaID]) -> frozenset[str]:
    return frozenset(replica.unique_id for replica in replicas)


class GatewayRouter(_Telling, PowerOfTwoChoicesRequestRouter):
    """Serve's own, which also tells: a Gateway learns of its own end from the router of a handle to itself."""


class SessionRouter(_Telling):
    """Asks `choose`: `session@replica` is pinned, a bare session goes to the oldest replica that seems to have room.

    What a replica holds comes with its routing stats, which Serve asks for every few seconds. Serve takes a replica off the list
    the moment it begins to stop it; here it stays until it is dead, for the calls pinned to it and for no others.
    """

    def initialize_state(self, **options: Any) -> None:
        self._left: dict[ReplicaID, RunningReplica] = {}

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        listed = {replica.replica_id for replica in replicas}
        self._left = {known: replica for known, replica in self._left.items() if known not in listed}
        for known, replica in self._replicas.items():
            if known not in listed and known not in self._left:
                self._left[known] = replica
                self._event_loop.create_task(self._until_dead(known))
        super().update_replicas([*replicas, *self._left.values()])

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        self._left.pop(replica_id, None)
        super().on_replica_actor_died(replica_id)

    async def _until_dead(self, replica_id: ReplicaID) -> None:
        while (replica := self._left.get(replica_id)) is not None:
            # Ends in `on_replica_actor_died` once it is.
            await self._probe_queue_lens([replica], 0)
            await asyncio.sleep(DEATH_S)

    def _tell(self, left: Iterable[ReplicaID] = ()) -> None:
        super()._tell(self._left)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if pending_request is None:
            return [candidate_replicas]
        # The base class retries at once while this is False, and a full replica would make it spin.
        pending_request.routing_context.should_backoff = True
        pin = Pin.parse(pending_request.metadata.session_id or "")
        known = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        try:
            chosen = choose(pin, (_view(one, one.replica_id in self._left) for one in candidate_replicas))
        except (ReplicaGone, NoReplica) as error:
            # Raised here it would be swallowed and the call would hang: the future carries it to the caller, and any list of
            # candidates lets the routing task see that the request is done.
            if not pending_request.future.done():
                pending_request.future.set_exception(error)
            return [candidate_replicas]
        return [[known[replica]] for replica in chosen]


class VaultRouter(_Telling):
    """Sends all calls of a session to one replica, whoever makes them: the one of highest weight among hashes of both names.

    When replicas come or go, only the sessions of those move, and their next exports are held where they then belong.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if pending_request is None:
            return [candidate_replicas]
        # As in `SessionRouter`: a replica that is busy is waited for, not asked again at once.
        pending_request.routing_context.should_backoff = True
        session = pending_request.metadata.session_id or ""
        return [[max(candidate_replicas, key=lambda replica: _weight(session, replica))]] if candidate_replicas else []


def _weight(session: str, replica: RunningReplica) -> bytes:
    return hashlib.sha256(f"{session}@{replica.replica_id.unique_id}".encode()).digest()


def _view(replica: RunningReplica, left: bool) -> ReplicaView:
    """What this process has heard of a replica. A router belongs to one deployment, which is one pool."""
    metadata: dict[str, Any] = replica.replica_metadata or {}
    stats: dict[str, Any] = replica.routing_stats or {}
    return ReplicaView(
        replica.replica_id.unique_id,
        metadata.get("started_at", math.inf),
        stats.get("held", 0.0),
        stats.get("capacity", math.inf),
        left or bool(stats.get("draining", False)),
        unit=stats.get("unit", 1.0),
    )
