"""The processes of a service below this one: how to find them, end them, and know that they are back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from liveact_services.cli.bench.chaos.forwarder import Forwarder

if TYPE_CHECKING:
    import psutil

    from liveact_services.config import ServiceConfig

REPLICA = "ray::ServeReplica:liveact:"
DEPLOYMENTS = ("Denoiser", "VaeDecoder", "AudioEncoder", "Conditioner", "VaeEncoder", "Vault", "Gateway")
TITLES = {
    **{name: REPLICA + name for name in DEPLOYMENTS},
    "proxy": "ray::ProxyActor", "controller": "ray::ServeController", "Valkey": "valkey-server",
}  # fmt: skip
"""How the processes of each kind are titled."""

HUNG = {"Denoiser-hung": "Denoiser", "VaeDecoder-hung": "VaeDecoder", "Valkey-hung": "Valkey"}
"""Stopped, and continued some seconds later; a replica perhaps never."""
CUT = "connection"
"""All clients' connections are reset."""
KINDS = (*TITLES, *HUNG, CUT)

HUNG_S = (3.0, 30.0)
"""How long what hangs does so, at least and at most; Valkey, of which there is one, a quarter of it."""
FOREVER = 0.3
"""The share of hung replicas that nobody continues."""
ANSWER_S = 5.0
"""A controller or proxy that says nothing for so long is not there."""


def processes() -> dict[str, list[psutil.Process]]:
    """Those that run below this process by kind, the oldest first. What is stopped does not run."""
    import psutil

    found: dict[str, list[tuple[float, psutil.Process]]] = {kind: [] for kind in TITLES}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            words = process.cmdline()
            kind = kind_of(words[0]) if words else None
            if kind and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED):
                found[kind].append((process.create_time(), process))
    return {kind: [process for _, process in sorted(one, key=lambda p: p[0])] for kind, one in found.items()}


def kind_of(word: str) -> str | None:
    """The kind of a process by the first word of its command line."""
    name = word.rpartition("/")[2]
    # A method's name may follow a dot; a pool's Denoisers have a name of their own.
    return next((kind for kind, title in TITLES.items() if name == title or name.startswith(title + ".")), None)


@dataclass(frozen=True)
class Wanted:
    """How many processes of each kind a whole service has, and where it answers."""

    address: str
    counts: Mapping[str, int]

    @staticmethod
    def of(config: ServiceConfig, address: str) -> Wanted:
        """What this configuration starts."""
        stages = {name: getattr(config, _field(name)).first_replicas for name in DEPLOYMENTS}
        valkey = {"Valkey": 1} if config.redis_url is None else {}
        return Wanted(address, {**stages, "proxy": 1, "controller": 1, **valkey})

    async def missing(self) -> list[str]:
        """Kinds of which something is not there or not ready yet."""
        there = await asyncio.to_thread(processes)
        found = [kind for kind, count in self.counts.items() if len(there[kind]) < count]
        if not found:
            found = await self._not_running()
        if not found and not await self._answers():
            found = ["proxy"]
        return found

    async def _not_running(self) -> list[str]:
        from ray import serve

        from liveact_services.service import APPLICATION

        try:
            status = await asyncio.wait_for(asyncio.to_thread(serve.status), ANSWER_S)
            deployments = status.applications[APPLICATION].deployments
        except Exception:
            # Whatever it answers with while it starts, it is not there yet.
            return ["controller"]
        running = {
            name: sum(n for state, n in one.replica_states.items() if str(getattr(state, "value", state)) == "RUNNING")
            for name, one in deployments.items()
        }
        return [name for name in DEPLOYMENTS if running.get(name, 0) < self.counts.get(name, 0)]

    async def _answers(self) -> bool:
        import grpc
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        # A channel of its own: one that broke would wait before it connects again.
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self.address, options=options) as channel:
            try:
                stub = health_pb2_grpc.HealthStub(channel)
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=ANSWER_S)
            except grpc.aio.AioRpcError:
                return False
        return answer.status == health_pb2.HealthCheckResponse.SERVING


def _field(deployment: str) -> str:
    return "".join("_" + c.lower() if c.isupper() else c for c in deployment).lstrip("_")


async def _busiest(name: str, found: list[psutil.Process]) -> psutil.Process:
    """The one that holds most sessions, as far as can be asked; otherwise the oldest."""
    from liveact_services.placement.draining import STATEFUL, running_replicas
    from liveact_services.service import APPLICATION

    held: dict[int | None, int] = {}
    # Serve's controller may be away, or the replica itself.
    with suppress(Exception):
        if name in STATEFUL and len(found) > 1:
            async with asyncio.timeout(ANSWER_S):
                for replica in await asyncio.to_thread(running_replicas, APPLICATION):
                    if replica.deployment == name:
                        held[replica.pid] = len(await replica.calls.sessions())
    return max(found, key=lambda process: held.get(process.pid, 0))


class Striker:
    """Ends one part of the service after the other."""

    def __init__(self, forwarder: Forwarder, draw: random.Random) -> None:
        self._forwarder, self._draw = forwarder, draw
        self._stopped: list[psutil.Process] = []
        self._continuing: list[asyncio.Task[None]] = []

    async def strike(self, kind: str) -> str:
        """Kill, stop or cut one of this kind; says what was done, "" where there was none."""
        if kind == CUT:
            return "cut the clients' connections" if self._forwarder.cut() else ""
        name = HUNG.get(kind, kind)
        found = (await asyncio.to_thread(processes))[name]
        if not found:
            return ""
        victim = self._draw.choice(found) if name == "Gateway" else await _busiest(name, found)
        if kind in HUNG:
            return self._stop(victim, name)
        victim.kill()
        return f"killed {name}"

    def _stop(self, victim: psutil.Process, name: str) -> str:
        import psutil

        victim.suspend()
        self._stopped.append(victim)
        if name != "Valkey" and self._draw.random() < FOREVER:
            return f"stopped {name} for good"
        after = self._draw.uniform(*HUNG_S) / (4 if name == "Valkey" else 1)

        async def later() -> None:
            await asyncio.sleep(after)
            # Serve may have replaced it by now.
            with suppress(psutil.NoSuchProcess):
                victim.resume()

        self._continuing.append(asyncio.create_task(later()))
        return f"stopped {name} for {after:.1f} s"

    async def release(self) -> None:
        """Continue all that was stopped and is still there."""
        import psutil

        for task in self._continuing:
            task.cancel()
        await asyncio.gather(*self._continuing, return_exceptions=True)
        for victim in self._stopped:
            with suppress(psutil.NoSuchProcess):
                victim.resume()
