"""Emptying replicas: mark them, have their sessions leave, let them go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from liveact_services.placement.pins import Pin, ReplicaGone

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

STATEFUL = ("Denoiser", "VaeDecoder")
"""The deployments whose replicas hold sessions; a pool's Denoiser has the pool's name after a hyphen."""


class Drainable(Protocol):
    """A replica that holds sessions."""

    async def drain(self, draining: bool, let_go: bool) -> dict[str, Any]:
        """Take no new sessions, or again; with `let_go`, end when empty. Gives what `liveact drain` lists."""

    async def drain_status(self) -> dict[str, Any]:
        """The same, changing nothing."""

    async def sessions(self) -> list[str]:
        """The sessions held."""


@dataclass(frozen=True)
class Replica:
    """A replica of a stateful deployment, and how to speak to it."""

    id: str
    deployment: str
    calls: Drainable
    pid: int | None = None
    """Of its process, on its own machine."""


async def drain(
    replicas: list[Replica],
    *,
    let_go: bool = False,
    wait_s: float = 0.0,
    poll_s: float = 1.0,
    told: Callable[[str, int], None] = lambda replica, held: None,
) -> dict[str, list[str]]:
    """Mark the replicas and wait up to `wait_s` until they are empty.

    Their sessions leave by themselves: whoever speaks for one hears of the mark from the router (`departing.py`). Tells how many
    each still holds whenever that changes; gives the sessions that are left, by replica.
    """
    await asyncio.gather(*(replica.calls.drain(True, let_go) for replica in replicas))
    clock = asyncio.get_running_loop()
    until = clock.time() + wait_s
    left: dict[str, list[str]] = {}
    while True:
        for replica in replicas:
            held = await _held(replica)
            if left.get(replica.id) != held:
                left[replica.id] = held
                told(replica.id, len(held))
        if not any(left.values()) or clock.time() >= until:
            return left
        await asyncio.sleep(min(poll_s, max(0.0, until - clock.time())))


async def _held(replica: Replica) -> list[str]:
    """The sessions on it: none where it has gone, whether it was let go or Serve has replaced it."""
    from ray.exceptions import RayActorError

    try:
        return await replica.calls.sessions()
    except (ReplicaGone, RayActorError):
        return []


def running_replicas(application: str) -> list[Replica]:
    """The replicas that hold sessions, of the Serve that this process is connected to; the oldest of each stage first."""
    from ray import serve
    from ray.serve.context import _get_global_client

    client: Any = _get_global_client()
    found = client.get_serve_details()["applications"].get(application)
    replicas = []
    for name, deployment in ({} if found is None else found["deployments"]).items():
        if name.partition("-")[0] in STATEFUL:
            handle = serve.get_deployment_handle(name, application)
            # Serve has more names for what still serves: one on a node that goes is to be replaced.
            running = [r for r in deployment["replicas"] if r["state"] in ("RUNNING", "PENDING_MIGRATION")]
            running.sort(key=lambda r: r["start_time_s"])
            replicas += [
                Replica(r["replica_id"], name, _Remote(handle, r["replica_id"]), r.get("pid")) for r in running
            ]
    return replicas


def withdraw_node(node: str, seconds: float) -> str:
    """Tell Ray, to which this process is connected, that the node with that id will be gone in so many seconds.

    Nothing new is placed on it. Serve starts its replicas elsewhere, and stops each here when its successor runs, or shortly
    before the time is over. It cannot be taken back. Gives why Ray refuses; "" where it does not.
    """
    import ray

    # What `ray drain-node` does, for which Ray has no public function; neither module has types.
    raylet: Any = import_module("ray._raylet")
    autoscaler: Any = import_module("ray.core.generated.autoscaler_pb2")
    gcs = raylet.GcsClient(address=ray.get_runtime_context().gcs_address)
    reason = autoscaler.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    gone_ms = time.time_ns() // 1_000_000 + round(1000 * seconds)
    accepted, why = gcs.drain_node(node, reason, "it is told to go", gone_ms)
    return "" if accepted else str(why)


class _Remote:
    """A replica in the cluster: calls that are pinned to it."""

    def __init__(self, handle: DeploymentHandle, replica: str) -> None:
        self._handle: Any = handle.options(session_id=str(Pin("drain", replica)))

    async def drain(self, draining: bool, let_go: bool) -> dict[str, Any]:
        return await self._handle.drain.remote(draining, let_go)

    async def drain_status(self) -> dict[str, Any]:
        return await self._handle.drain_status.remote()

    async def sessions(self) -> list[str]:
        return await self._handle.sessions.remote()
