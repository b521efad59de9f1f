"""A session of a real service leaves the replicas it is on."""

from __future__ import annotations

import asyncio
import time

from conftest import Service, pcm16
from failover_fixtures import Watched, record, watch
from liveact.v1 import avatar_pb2 as pb
from liveact_services.client import AvatarClient
from liveact_services.placement.draining import drain, running_replicas
from liveact_services.service import APPLICATION
from liveact_services.sessions import SessionRecord
from test_service import RATE, session, speech


async def placed(service: Service, name: str, elsewhere_than: tuple[str, str]) -> SessionRecord:
    """What the session's record says once it names other replicas: it is written every second."""
    async with asyncio.timeout(10):
        while True:
            found = await record(service, name)
            if found.denoiser != elsewhere_than[0] and found.decoder != elsewhere_than[1]:
                return found
            await asyncio.sleep(0.1)


async def test_a_session_leaves_replicas_that_are_drained_and_its_frames_stay_what_they_were(
    service: Service, client: AvatarClient, portrait: bytes
) -> None:
    config = session(portrait, codec=pb.VIDEO_CODEC_JPEG, idle_policy=pb.IDLE_POLICY_HOLD)
    voice = speech(12.0, 5)
    expected = await watch(client, config, voice)
    data, half = pcm16(voice), 8 * RATE * 2
    heard = Watched()
    async with client.stream(config) as stream:
        await stream.ready()
        heard.name = stream.session.name
        await stream.send_audio(data[:half], "a")
        before = await placed(service, heard.name, ("", ""))
        replicas = {replica.id: replica for replica in await asyncio.to_thread(running_replicas, APPLICATION)}
        chosen = [replicas[before.denoiser], replicas[before.decoder]]
        began = time.monotonic()
        # They leave while blocks of the first half are made, or just after.
        taking = asyncio.create_task(_take(stream, heard))
        try:
            left = await drain(chosen, wait_s=20.0, poll_s=0.1)
            assert left == {replica.id: [] for replica in chosen}
            print(f"empty after {time.monotonic() - began:.1f} s")
        finally:
            await asyncio.gather(*(replica.calls.drain(False, False) for replica in chosen))
        after = await placed(service, heard.name, (before.denoiser, before.decoder))
        assert after.denoiser not in {replica.id for replica in chosen}
        await stream.send_audio(data[half:], "a")
        await stream.end_utterance("a")
        await stream.close()
        await taking
    assert heard.indices == list(range(len(expected.frames)))
    assert heard.bytes == expected.bytes
    assert len(heard.migrations()) == 2
    for event in heard.migrations():
        print(event.message)


async def _take(stream: object, heard: Watched) -> None:
    async for message in stream:  # type: ignore[attr-defined]
        heard.take(message)
