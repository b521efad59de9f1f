"""A minute without the session store on a real service: it hangs, or is gone and comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import psutil
import pytest

from conftest import Service, serving
from failover_fixtures import Watched, record, watch
from liveact.v1 import avatar_pb2 as pb
from liveact_services.client import AvatarClient
from liveact_services.config import load_config
from liveact_services.errors import ClientError
from liveact_services.sessions import Database, SessionState
from liveact_services.sessions.keys import SessionKeys
from test_service import perform, session, speech

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

OUTAGE_S = 60.0
FPS = 20


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    config = load_config(
        port=0, http_port=0, data_dir=tmp_path_factory.mktemp("minute"), checkpoint="untrained",
        sessions={"max_sessions": 4, "max_utilisation": 1000},
    )  # fmt: skip
    with serving(config) as service:
        yield service


@dataclass
class Answers:
    """What was answered while the store was away, and how fast."""

    opened: list[float] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)

    async def gather(self, client: AvatarClient, portrait: bytes, name: str, until: float) -> None:
        """Ask for a new session and for a record, again and again."""
        while time.monotonic() < until:
            for seconds, call in ((self.opened, opens(client, portrait)), (self.asked, client.get_session(name))):
                began = time.monotonic()
                with pytest.raises(ClientError) as refused:
                    await call
                seconds.append(time.monotonic() - began)
                assert refused.value.reason == "STORE_UNAVAILABLE"
                assert refused.value.retry_after_s == 1.0
            await asyncio.sleep(2.0)


async def opens(client: AvatarClient, portrait: bytes) -> None:
    async with client.stream(session(portrait)) as stream:
        await stream.ready()


async def usage_ms(service: Service) -> int:
    """Milliseconds of video of the one tenant there is."""
    assert service.running._valkey is not None
    database = Database.connect(service.running._valkey.url)
    stored = await database.client.hget(SessionKeys(database).usage_of_tenant("default"), "ms")
    await database.aclose()
    return int(stored or 0)


async def settled_usage_ms(service: Service) -> int:
    """The same once it changes no more: a session that has just ended writes its last frames a moment later."""
    known = -1
    while known != (now := await usage_ms(service)):
        known = now
        await asyncio.sleep(2.0)
    return known


@pytest.mark.parametrize("how", ["hangs", "is gone"])
async def test_two_streams_go_on_for_a_minute_without_the_store(
    service: Service, client: AvatarClient, portrait: bytes, how: str
) -> None:
    assert service.running._valkey is not None
    valkey = psutil.Process(int((service.running._valkey.data_dir / "valkey.pid").read_text()))
    guard = valkey.parent()
    assert guard is not None
    far = asyncio.Event()
    seen: dict[int, Watched] = {}

    def note(number: int, heard: Watched) -> None:
        seen[number] = heard
        if len(seen) == 2 and all(len(heard.frames) >= 53 for heard in seen.values()):
            far.set()

    counted = await settled_usage_ms(service)
    config = session(portrait, pacing=pb.PACING_REALTIME)
    streams = [
        asyncio.create_task(watch(client, config, speech(OUTAGE_S + 30, number), partial(note, number)))
        for number in range(2)
    ]
    async with asyncio.timeout(30):
        await far.wait()
    before = {number: await record(service, heard.name) for number, heard in seen.items()}
    at = {number: len(heard.frames) for number, heard in seen.items()}
    if how == "hangs":
        valkey.suspend()
    else:
        # Its guard would start it again at once.
        guard.suspend()
        valkey.kill()
    answers, until = Answers(), time.monotonic() + OUTAGE_S
    try:
        await asyncio.sleep(0.5)
        await answers.gather(client, portrait, seen[0].name, until)
        made = {number: len(heard.frames) - at[number] for number, heard in seen.items()}
    finally:
        for stopped in (valkey, guard):
            with suppress(psutil.NoSuchProcess):
                os.kill(stopped.pid, signal.SIGCONT)
    back = time.monotonic()
    for number, heard in seen.items():
        async with asyncio.timeout(20):
            while True:
                with suppress(Exception):
                    now = await record(service, heard.name)
                    if now.frame > at[number] + made[number] - FPS * 2:
                        break
                await asyncio.sleep(0.1)
        assert now.state is SessionState.STREAMING
        assert now.gateway == before[number].gateway
        assert now.token >= before[number].token
        assert now.expire_time > time.time() + service.config.sessions.idle_timeout_s
    restored_s = time.monotonic() - back
    print(
        f"store {how}: frames made meanwhile {made}; a new session refused {len(answers.opened)} times within "
        f"{max(answers.opened):.2f} s, records within {max(answers.asked):.2f} s; records right {restored_s:.2f} s after"
    )
    assert min(made.values()) > 0.8 * OUTAGE_S * FPS
    assert max(answers.opened + answers.asked) < 4.0
    for stream in streams:
        heard = await stream
        assert heard.indices == list(range(len(heard.frames)))
        assert not heard.migrations()
        # The last of it is sent before it is written that it was.
        async with asyncio.timeout(10):
            while (ended := await record(service, heard.name)).state is not SessionState.CLOSED:
                await asyncio.sleep(0.1)
        assert ended.frame == len(heard.frames)
    frames = sum(len(heard.frames) for heard in seen.values())
    assert await usage_ms(service) - counted == frames * 1000 // FPS
    assert {s.state for s in await client.list_sessions()} <= {
        pb.SESSION_STATE_CLOSED, pb.SESSION_STATE_FAILED, pb.SESSION_STATE_EXPIRED,
    }  # fmt: skip
    assert len((await perform(client, session(portrait), speech(1.0))).frames) >= 20
