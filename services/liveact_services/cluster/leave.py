"""What a pod does when it is told to go: `python -m liveact_services.cluster.leave --wait SECONDS` is its preStop.

Its Ray node takes nothing new. Serve starts its replicas elsewhere, where there is room, and stops those here: their
sessions leave at a block boundary, Gateways tell their clients, and the proxy ends when its streams have. Then the pod may
go; what is left when the time is over goes the way of a loss.
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
    proxy_drains: bool = False
    """Whether its proxy takes no new calls and has some."""


def main() -> None:
    """Leaves, and says on stdout what it waits for. Exits with 0 when nothing is left, else with 1."""
    parser = argparse.ArgumentParser(
        description="Have sessions and streams leave this Ray node, and wait until none is left."
    )
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="at most so long")
    parser.add_argument("--node", metavar="ID", help="another Ray node than the one this runs on")
    asked = parser.parse_args()
    import ray

    from liveact_services.placement.draining import withdraw_node

    def told(line: str) -> None:
        print(line, flush=True)

    try:
        ray.init(address="auto", log_to_driver=False)
    except ConnectionError as error:
        # Without Ray there is no session here either.
        told(f"no Ray on this node: {error}")
        return
    node: str = asked.node or str(ray.get_runtime_context().get_node_id())
    if refusal := withdraw_node(node, asked.wait):
        told(f"replicas stay on this node: {refusal}")
    left = asyncio.run(leave(node, asked.wait, told))
    ray.shutdown()
    sys.exit(1 if left else 0)


async def leave(node: str, wait_s: float, told: Callable[[str], None] = lambda line: None) -> dict[str, int]:
    """Empty the Ray node with that id, of the Serve that this process is connected to.

    Sessions find no room here and leave for where there is some, whether the node was withdrawn or not. Gives what is left after
    `wait_s`: sessions by replica, streams by Gateway; nothing where all have gone.
    """
    from liveact_services.placement.draining import drain, running_replicas
    from liveact_services.service import APPLICATION

    here = on_node(node)
    if not here.replicas and not here.proxy_drains:
        told("no replica runs on this node")
        return {}
    until = time.monotonic() + wait_s
    chosen = [replica for replica in running_replicas(APPLICATION) if replica.id in here.replicas]
    held = await drain(
        chosen, wait_s=wait_s, poll_s=POLL_S, told=lambda replica, count: told(f"{replica} holds {count}")
    )
    streams = await _without_streams(node, here.gateways, until, told)
    return {name: count for name, count in [*((k, len(v)) for k, v in held.items()), *streams.items()] if count}


def on_node(node: str) -> Here:
    """The application's replicas on the Ray node with that id."""
    from ray import serve
    from ray.serve.context import _get_global_client

    from liveact_services.service import APPLICATION

    if not serve.status().applications:
        return Here(frozenset(), ())
    client: Any = _get_global_client()
    details = client.get_serve_details()
    found = details["applications"].get(APPLICATION, {"deployments": {}})
    local = [
        (name, replica)
        for name, deployment in found["deployments"].items()
        for replica in deployment["replicas"]
        # One that is being started has no node yet.
        if replica.get("node_id") == node
    ]
    gateways = tuple(replica["actor_name"] for name, replica in local if name == GATEWAY)
    drains = details["proxies"].get(node, {}).get("status") == "DRAINING"
    return Here(frozenset(replica["replica_id"] for _, replica in local), gateways, drains)


async def _without_streams(
    node: str, gateways: tuple[str, ...], until: float, told: Callable[[str], None]
) -> dict[str, int]:
    """Waits until no stream is open at these Gateways and none passes the node's proxy; gives what is left at `until`.

    A proxy drains once all replicas here are being stopped. One that does not will not, and is not waited for.
    """
    seen: dict[str, int] = {}
    while True:
        counts = {name: count for name in gateways if (count := await _streams(name))}
        if on_node(node).proxy_drains:
            counts["proxy"] = 1
        if counts != seen:
            told(", ".join(_words(name, count) for name, count in counts.items()) or "no stream is left")
            seen = counts
        if not counts or time.monotonic() >= until:
            return counts
        await asyncio.sleep(POLL_S)


def _words(name: str, count: int) -> str:
    return "the proxy drains" if name == "proxy" else f"{name} serves {count} calls"


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
