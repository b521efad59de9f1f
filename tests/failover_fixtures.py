"""What tests that kill a service's processes need: who serves a session, and streams that are watched while it happens."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ray.serve.context import _get_global_client

from conftest import Service
from liveact.v1 import avatar_pb2 as pb
from liveact_services.client import AvatarClient
from liveact_services.service import APPLICATION
from liveact_services.sessions import Database, SessionRecord, SessionStore
from test_service import Heard, say, session


def pids(deployment: str) -> dict[str, int]:
    """The process of each running replica, by the replica's id."""
    details: Any = _get_global_client().get_serve_details()
    replicas = details["applications"][APPLICATION]["deployments"][deployment]["replicas"]
    return {replica["replica_id"]: replica["pid"] for replica in replicas if replica["state"] == "RUNNING"}


def kill(deployment: str, replica: str | None = None) -> list[str]:
    """SIGKILL that replica, or all the deployment has; gives the ids of those killed."""
    victims = {name: pid for name, pid in pids(deployment).items() if replica in (None, name)}
    for pid in victims.values():
        os.kill(pid, signal.SIGKILL)
    return list(victims)


async def until_replicas(deployment: str, count: int, service: Service) -> None:
    """Wait for Serve to have replaced what was killed."""
    async with asyncio.timeout(180):
        while len(pids(deployment)) < count or service.running.status()[deployment] != "HEALTHY":
            await asyncio.sleep(0.5)


async def reaches(event: asyncio.Event, stream: asyncio.Task[Watched]) -> None:
    """Wait for the event, or raise what ended the stream before it."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait({waiting, stream}, return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        waiting.cancel()
        raise AssertionError(f"the stream ended after {len(stream.result().frames)} frames")


async def record(service: Service, name: str) -> SessionRecord:
    """What Redis says of a session: its replicas, among others."""
    assert service.running._valkey is not None
    database = Database.connect(service.running._valkey.url)
    try:
        return await SessionStore(database).get(name.removeprefix("sessions/"), "default")
    finally:
        await database.aclose()


@dataclass
class Watched(Heard):
    """All that a stream said, and when its frames came."""

    name: str = ""
    came: list[float] = field(default_factory=list)

    def take(self, message: Any) -> None:
        super().take(message)
        if isinstance(message, pb.VideoChunk):
            self.came.append(time.monotonic())

    @property
    def indices(self) -> list[int]:
        return [frame.index for frame in self.frames]

    @property
    def bytes(self) -> list[bytes]:
        return [frame.data for frame in self.frames]

    def migrations(self) -> list[pb.Event]:
        return [event for event in self.events if event.type == pb.EVENT_TYPE_MIGRATED]


async def watch(
    client: AvatarClient,
    config: pb.SessionConfig,
    voice: np.ndarray,
    seen: Callable[[Watched], None] = lambda heard: None,
) -> Watched:
    """One voice through one session; `seen` is told after every message."""
    heard = Watched()
    async with client.stream(config) as stream:
        heard.name = stream.session.name
        await stream.ready()
        sending = asyncio.create_task(say(stream, voice))
        sending.add_done_callback(lambda _: asyncio.create_task(stream.close()))
        async for message in stream:
            heard.take(message)
            seen(heard)
    return heard


def configs(portrait: bytes) -> tuple[pb.SessionConfig, pb.SessionConfig]:
    """One session at each pacing. With a held clock both make blocks of complete sound only, hence the same ones."""
    common = {"codec": pb.VIDEO_CODEC_JPEG, "seed": 11, "idle_policy": pb.IDLE_POLICY_HOLD}
    return (
        session(portrait, pacing=pb.PACING_FASTEST, **common),
        session(portrait, pacing=pb.PACING_REALTIME, **{**common, "seed": 12}),
    )


async def undisturbed(
    client: AvatarClient, portrait: bytes, voices: tuple[np.ndarray, np.ndarray]
) -> tuple[Watched, Watched]:
    """What the sessions of `configs` give undisturbed; at the fastest pacing: when blocks are made changes, not of what."""
    asked = configs(portrait)
    for config in asked:
        config.pacing = pb.PACING_FASTEST
    first, second = [await watch(client, config, voice) for config, voice in zip(asked, voices, strict=True)]
    return first, second
