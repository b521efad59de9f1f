"""What a pod does when it is told to go: `python -m liveact_services.cluster.leave --wait SECONDS` is its preStop.

Replicas on this Ray node that hold sessions take no new ones, and whatever moves sessions moves them; then it waits until no
session and no stream is left here. Kubernetes stops the pod after that, or at the end of its grace period.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

GATEWAY = "Gateway"
POLL_S = 1.0


@dataclass(frozen=True)
class Here:
    """What of the service runs on one Ray node."""

    replicas: frozenset[str]
    """Ids of all its replicas."""
    gateways: tuple[str, ...]
    """Names of the actors that are Gateways."""


def main() -> None:
    """Leaves, and says on stdout what it waits for. Exits with 0 when nothing is left, else with 1."""
    parser = argparse.ArgumentParser(description="Take no new sessions on this Ray node, and wait until none is left.")
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="at most so long")
    wait_s: float = parser.parse_args().wait
    import ray

    try:
        ray.init(address="auto", log_to_driver=False)
    except ConnectionError as error:
        # Without Ray there is no session here either.
        print(f"no Ray on this node: {error}", flush=True)
        return
    left = asyncio.run(
        leave(str(ray.get_runtime_context().get_node_id()), wait_s, lambda line: print(line, flush=True))
    )
    ray.shutdown()
    sys.exit(1 if left else 0)


async def leave(node: str, wait_s: float, told: Callable[[str], None] = lambda line: None) -> dict[str, int]:
    """Empty the Ray node with that id, of the Serve that this process is connected to.

    Gives what is left after `wait_s`: sessions by replica, streams by Gateway; nothing where all have gone.
    """
    from liveact_services.placement.draining import drain, running_replicas
    from liveact_services.service import APPLICATION

    here = on_node(node)
    if not here.replicas:
        told("no replica runs on this node")
        return {}
    until = time.monotonic() + wait_s
    chosen = [replica for replica in running_replicas(APPLICATION) if replica.id in here.replicas]
    held = await drain(
        chosen, wait_s=wait_s, poll_s=POLL_S, told=lambda replica, count: told(f"{replica} holds {count}")
    )
    streams = await _without_streams(here.gateways, until, told)
    return {name: count for name, count in [*((k, len(v)) for k, v in held.items()), *streams.items()] if count}


def on_node(node: str) -> Here:
    """The application's replicas on the Ray node with that id."""
    from ray import serve
    from ray.serve.context import _get_global_client

    from liveact_services.service import APPLICATION

    if not serve.status().applications:
        return Here(frozenset(), ())
    client: Any = _get_global_client()
    found = client.get_serve_details()["applications"].get(APPLICATION, {"deployments": {}})
    local = [
        (name, replica)
        for name, deployment in found["deployments"].items()
        for replica in deployment["replicas"]
        if replica["node_id"] == node
    ]
    gateways = tuple(replica["actor_name"] for name, replica in local if name == GATEWAY)
    return Here(frozenset(replica["replica_id"] for _, replica in local), gateways)


async def _without_streams(gateways: tuple[str, ...], until: float, told: Callable[[str], None]) -> dict[str, int]:
    """Waits until no stream is open at these Gateways; gives how many are at `until`."""
    seen: dict[str, int] = {}
    while True:
        counts = {name: count for name in gateways if (count := await _streams(name))}
        if counts != seen:
            told(", ".join(f"{name} serves {count} calls" for name, count in counts.items()) or "no stream is left")
            seen = counts
        if not counts or time.monotonic() >= until:
            return counts
        await asyncio.sleep(POLL_S)


async def _streams(gateway: str) -> int:
    """Calls under way at a Gateway; an open stream is one. None where it has ended."""
    import ray
    from ray.exceptions import RayActorError
    from ray.serve._private.constants import SERVE_NAMESPACE

    try:
        actor: Any = ray.get_actor(gateway, namespace=SERVE_NAMESPACE)
        return int(await actor.get_num_ongoing_requests.remote())
    except (ValueError, RayActorError):
        return 0


if __name__ == "__main__":
    main()
