"""What every computing replica has: a thread for its arithmetic, and a word on whether it still moves."""

from __future__ import annotations

import asyncio
import threading

import pytest

from liveact_services.audio_encoder.deployment import AudioEncoder
from liveact_services.config import ServiceConfig
from liveact_services.replica import Compute


async def test_calls_are_computed_one_after_the_other_beside_the_loop() -> None:
    compute, running = Compute("test"), threading.Semaphore()

    def alone() -> str:
        assert running.acquire(blocking=False)
        running.release()
        return threading.current_thread().name

    assert {name.startswith("test") for name in await asyncio.gather(*(compute.run(alone) for _ in range(20)))} == {
        True
    }
    assert compute.busy_s == 0


async def test_a_replica_whose_computing_hangs_says_that_it_is_not_well() -> None:
    replica = AudioEncoder(ServiceConfig(checkpoint="untrained", hang_timeout_s=0.2))
    await replica.check_health()
    released = threading.Event()
    hanging = asyncio.create_task(replica.compute.run(released.wait))
    await asyncio.sleep(0.3)
    with pytest.raises(RuntimeError, match="one call has been computing for"):
        await replica.check_health()
    released.set()
    await hanging
    await replica.check_health()

    def mistaken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await replica.compute.run(mistaken)
    assert replica.compute.busy_s == 0
