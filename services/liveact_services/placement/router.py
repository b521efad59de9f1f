"""The strict router of stateful deployments: a pinned call reaches its replica or fails at once.

Built on Serve's alpha request-router API, hence `ray` is pinned and tests/test_placement.py holds the contract.
"""

from __future__ import annotations

import hashlib
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from liveact_services.placement.pins import NoReplica, Pin, ReplicaGone


class SessionRouter(RequestRouter):
    """Pins `session@replica`; places a bare session on the oldest replica that has not refused it.

    Filling the oldest first leaves the newest empty, and those are what Serve removes when it scales down.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if pending_request is None:
            return [candidate_replicas]
        # The base class retries at once while this is False, and a full replica would make it spin.
        pending_request.routing_context.should_backoff = True
        pin = Pin.parse(pending_request.metadata.session_id or "")
        if pin.replica is not None:
            for replica in candidate_replicas:
                if replica.replica_id.unique_id == pin.replica:
                    return [[replica]]
            return self._fail(
                pending_request, ReplicaGone(f"replica {pin.replica} no longer serves"), candidate_replicas
            )
        willing = [r for r in candidate_replicas if r.replica_id.unique_id not in pin.refused]
        if not willing:
            return self._fail(pending_request, NoReplica("every replica has refused the session"), candidate_replicas)
        willing.sort(key=_age)
        return [[replica] for replica in willing]

    @staticmethod
    def _fail(
        request: PendingRequest, error: Exception, candidates: list[RunningReplica]
    ) -> list[list[RunningReplica]]:
        # An exception raised here would be swallowed and the call would hang: the future carries it to the caller, and any
        # list of candidates lets the routing task see that the request is done.
        if not request.future.done():
            request.future.set_exception(error)
        return [candidates]


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


def _age(replica: RunningReplica) -> tuple[float, str]:
    metadata: dict[str, Any] = replica.replica_metadata or {}
    return (metadata.get("started_at", float("inf")), replica.replica_id.unique_id)
