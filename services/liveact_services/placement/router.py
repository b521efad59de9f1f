"""The strict router of stateful deployments: a pinned call reaches its replica or fails at once.

Built on Serve's alpha request-router API, hence `ray` is pinned and tests/test_placement.py holds the contract.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from liveact_services.placement.choose import ReplicaView, choose
from liveact_services.placement.pins import NoReplica, Pin, ReplicaGone


class SessionRouter(RequestRouter):
    """Asks `choose`: `session@replica` is pinned, a bare session goes to the oldest replica that seems to have room.

    What a replica holds comes with its routing stats, which Serve asks for every few seconds.
    """

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
            chosen = choose(pin, map(_view, candidate_replicas))
        except (ReplicaGone, NoReplica) as error:
            # Raised here it would be swallowed and the call would hang: the future carries it to the caller, and any list of
            # candidates lets the routing task see that the request is done.
            if not pending_request.future.done():
                pending_request.future.set_exception(error)
            return [candidate_replicas]
        return [[known[replica]] for replica in chosen]


class VaultRouter(RequestRouter):
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


def _view(replica: RunningReplica) -> ReplicaView:
    """What this process has heard of a replica. A router belongs to one deployment, which is one pool."""
    metadata: dict[str, Any] = replica.replica_metadata or {}
    stats: dict[str, Any] = replica.routing_stats or {}
    return ReplicaView(
        replica.replica_id.unique_id,
        metadata.get("started_at", math.inf),
        stats.get("held", 0.0),
        stats.get("capacity", math.inf),
        bool(stats.get("draining", False)),
    )
