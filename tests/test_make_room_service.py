"""Two Denoisers with a little room each and a client that needs both: a session moves, and the client comes in as told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack

import grpc
import pytest

import priced_stages
from conftest import Service, serving
from failover_fixtures import Watched, record, watch
from liveact.v1 import avatar_pb2 as pb
from liveact_services import graph
from liveact_services.client import AvatarClient, ClientError
from liveact_services.config import load_config
from liveact_services.denoiser.admission import GATHERED_S
from test_service import session, speech

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

HEARD_S = 5.0
"""After which routers know how full the replicas are."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    config = load_config(
        port=0, http_port=0, data_dir=tmp_path_factory.mktemp("room"), checkpoint="untrained",
        denoiser={"replicas": 2}, sessions={"max_utilisation": 0.85},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "Denoiser", priced_stages.Denoiser)
        with serving(config) as service:
            yield service


def small(portrait: bytes, **fields: object) -> pb.SessionConfig:
    held = {"codec": pb.VIDEO_CODEC_JPEG, "pacing": pb.PACING_REALTIME, "idle_policy": pb.IDLE_POLICY_HOLD, "seed": 12}
    return session(portrait, **{**held, **fields})


async def test_a_small_session_moves_so_that_a_large_one_finds_room(
    service: Service, client: AvatarClient, portrait: bytes
) -> None:
    voice = speech(20.0, 2)
    expected = await watch(client, small(portrait, pacing=pb.PACING_FASTEST), voice)
    async with AsyncExitStack() as stack:

        async def opened(config: pb.SessionConfig) -> str:
            stream = await stack.enter_async_context(client.stream(config))
            await stream.ready()
            return stream.session.name

        async def where(name: str) -> str:
            return (await record(service, name)).denoiser

        # One speaks for as long as all of this takes; of the others, which are silent, one fills its replica up and goes.
        speaking = asyncio.create_task(watch(client, small(portrait), voice))
        await asyncio.sleep(2)
        silent = [await opened(small(portrait)) for _ in range(6)]
        await asyncio.sleep(HEARD_S)
        at = [await where(name) for name in silent]
        oldest = at[0]
        assert [place == oldest for place in at] == [True, True, True, False, False, False]
        await client.delete_session(silent[0])
        await asyncio.sleep(HEARD_S)

        large = small(portrait, width=64)
        with pytest.raises(ClientError) as refused:
            await opened(large)
        assert refused.value.code == grpc.StatusCode.UNAVAILABLE
        assert refused.value.retry_after_s == GATHERED_S, "neither has room, and one makes it"
        await asyncio.sleep(GATHERED_S)
        began = time.monotonic()
        name = await opened(large)
        print(f"a place after {GATHERED_S:g} s and {time.monotonic() - began:.2f} s")

        left = [other for other, place in zip(silent[1:], at[1:], strict=True) if await where(other) != place]
        heard: Watched = await speaking
        assert len(left) + len(heard.migrations()) == 1, "one session was in the way"
        assert await where(name) in at
        assert heard.indices == expected.indices
        assert heard.bytes == expected.bytes
