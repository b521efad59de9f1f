"""One session's turns: in order, once each, and again after an attempt that failed."""

from __future__ import annotations

import asyncio

import pytest

from liveact_services.block_order import BlockOrder
from liveact_services.placement.pins import ReplicaGone, Superseded


class Stage:
    """Blocks through one `BlockOrder`, and those that came through."""

    def __init__(self, next_block: int = 0) -> None:
        self.order = BlockOrder(next_block)
        self.made: list[int] = []
        self.work = asyncio.Event()
        self.work.set()

    def call(self, block: int, attempt: int = 0, fails: bool = False) -> asyncio.Task[None]:
        return asyncio.create_task(self._make(block, attempt, fails))

    async def _make(self, block: int, attempt: int, fails: bool) -> None:
        async with self.order.turn(block, attempt):
            await self.work.wait()
            if fails:
                raise RuntimeError("failed")
            self.made.append(block)


async def test_calls_that_overtake_each_other_are_put_in_order() -> None:
    stage = Stage()
    await asyncio.gather(*(stage.call(block) for block in (3, 1, 0, 2)))
    assert stage.made == [0, 1, 2, 3]


async def test_a_block_made_before_or_being_made_is_refused() -> None:
    stage = Stage()
    await stage.call(0)
    with pytest.raises(ValueError, match="block 0 was made before or is being made; the next is 1"):
        await stage.call(0)
    stage.work.clear()
    making = stage.call(1)
    await asyncio.sleep(0)
    with pytest.raises(ValueError, match="the next is 2"):
        await stage.call(1)
    stage.work.set()
    await making


async def test_a_failed_block_keeps_its_turn_and_those_behind_it_wait_for_the_next_try() -> None:
    stage = Stage()
    behind = stage.call(1)
    with pytest.raises(RuntimeError):
        await stage.call(0, fails=True)
    await asyncio.sleep(0.01)
    assert not behind.done()
    await stage.call(0)
    await behind
    assert stage.made == [0, 1]


async def test_a_block_whose_call_never_came_is_waited_for() -> None:
    stage = Stage()
    behind = stage.call(1)
    await asyncio.sleep(0.01)
    assert not behind.done()
    await asyncio.gather(stage.call(0), behind)


async def test_a_new_attempt_sends_away_the_calls_of_earlier_ones_however_late_they_come() -> None:
    stage = Stage()
    waiting = stage.call(2)
    await asyncio.sleep(0)
    stage.order.supersede(1)
    for late in (waiting, stage.call(0)):
        with pytest.raises(Superseded):
            await late
    await asyncio.gather(stage.call(0, 1), stage.call(1, 1))
    assert stage.made == [0, 1]
    with pytest.raises(Superseded):
        stage.order.supersede(0)


async def test_the_block_whose_turn_it_is_is_finished_and_counts() -> None:
    stage = Stage()
    stage.work.clear()
    making = stage.call(0)
    await asyncio.sleep(0)
    stage.order.supersede(1)
    settled = asyncio.create_task(stage.order.idle())
    await asyncio.sleep(0.01)
    assert not settled.done()
    stage.work.set()
    await asyncio.gather(making, settled)
    assert stage.order.next_block == 1


async def test_a_turn_that_was_taken_away_changes_nothing_when_it_ends() -> None:
    stage = Stage()
    stage.work.clear()
    making = stage.call(0)
    await asyncio.sleep(0)
    stage.order.supersede(1)
    stage.order.put_at(5)
    stage.work.set()
    await making
    assert stage.order.next_block == 5
    await stage.call(5, 1)


async def test_closing_sends_everybody_away() -> None:
    stage = Stage()
    waiting = stage.call(1)
    await asyncio.sleep(0)
    stage.order.close()
    for call in (waiting, stage.call(0)):
        with pytest.raises(ReplicaGone):
            await call


async def test_an_adopted_session_goes_on_where_it_stood() -> None:
    stage = Stage(8)
    await asyncio.gather(stage.call(9), stage.call(8))
    assert stage.made == [8, 9]
