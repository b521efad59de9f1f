"""A session that outlives the replicas that serve it.

A block is a pure function of the session's value, its sound and its prompt, so what was lost is made again: a part of the session
is placed anew, goes on from its newest export, and makes the planned blocks since then once more. The client is given each frame
once, with the bytes it would have had.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import numpy as np

from liveact_models.timeline import block_frames, block_of_frame
from liveact_services.conductor.parts import ExportRefused, Graph, Latents, Moved, NoPlace, Part, PartLost
from liveact_services.conductor.patience import Patience
from liveact_services.conductor.stages import BlockPlan, SessionSpec, VideoPart
from liveact_services.errors import fail
from liveact_services.independent import independent
from liveact_services.placement.pins import ASK_AGAIN_S

RETRY_S, MAX_RETRY_S = 0.25, 2.0
"""Between two attempts; doubled each time that all is in place and still no frame comes."""
PRUNE_BLOCKS = 4
"""How often it is looked at what of a session may be forgotten that is never exported."""
MAX_KEPT_BLOCKS = 64
"""Plans kept for a session of which no export comes: going on from further back would take too long to be of use."""

log = logging.getLogger(__name__)


class ResilientStages:
    """One session's `Stages` over a `Graph`. Blocks are taken in order, one at a time."""

    def __init__(
        self,
        graph: Graph,
        patience: Patience,
        export_blocks: int,
        now: Callable[[], float] = time.monotonic,
        attempt: int = 0,
        make_sure: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`attempt`: the first of this owner's. `make_sure`: raises when the session is another owner's by now."""
        self._make_sure = make_sure
        self._in_time, self._timely = patience.in_time, patience.timely
        self._graph, self._patience, self._export_blocks, self._now = graph, patience, export_blocks, now
        self._spec: SessionSpec | None = None
        self._portrait: np.ndarray | None = None
        self._held: dict[Part, str] = {}
        """The replica of each part."""
        self._avoid: dict[Part, str] = dict.fromkeys(Part, "")
        """The replica that lost each part last: it may still be listed, or hang."""
        self._attempt = attempt
        self._plans: dict[int, BlockPlan] = {}
        """Of every block from which the session may have to go on, one after the other."""
        self._planned_at: dict[int, float] = {}
        self._latents: dict[int, Latents] = {}
        self._calls: dict[int, AsyncIterator[VideoPart]] = {}
        """Blocks on their way at the present attempt."""
        self._replayed: list[Latents] = []
        """Latents that are made again although nothing but the next ones needs them."""
        self._next_frame = 0
        """The first frame not given out."""
        self._recovering = asyncio.Lock()
        self._lost_at: float | None = None
        """When the loss was noticed after which no frame has come yet."""
        self._fruitless = 0
        """Recoveries since the last frame."""
        self._moving: set[Part] = set()
        self._listener: Callable[[Moved], None] = lambda moved: None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def replicas(self) -> tuple[str, str]:
        """Where the session is held."""
        return self._held.get(Part.DENOISER, ""), self._held.get(Part.DECODER, "")

    def listen(self, listener: Callable[[Moved], None]) -> None:
        """Have this called whenever the session has moved."""
        self._listener = listener

    async def open(self, spec: SessionSpec, portrait: np.ndarray | None) -> None:
        """Condition the session and place it. Raises `ServiceError`: CAPACITY, or SESSION_LOST when stages keep dying."""
        assert portrait is not None, "a session that goes on begins as `SucceedingStages`"
        self._spec, self._portrait = spec, portrait
        began = self._now()
        while True:
            try:
                for part in (Part.DECODER, Part.DENOISER):
                    if part not in self._held:
                        self._held[part] = await self._graph.open(part, spec, portrait, self._attempt, "")
                return
            except NoPlace as full:
                text = "every replica holds as many sessions as it can"
                raise fail("CAPACITY", text, retry_after_s=full.retry_after_s) from None
            except PartLost as loss:
                # A stage died with the call; which one does not matter, nothing was made yet.
                self._check_patience(began, loss)
                await asyncio.sleep(RETRY_S)

    def submit(self, plan: BlockPlan) -> AsyncIterator[VideoPart]:
        """Send the block through all its stages now; its parts arrive as they are decoded."""
        self._plans[plan.block] = plan
        self._planned_at[plan.block] = self._now()
        if self._may_send:
            self._send(plan.block)
        return self._deliver(plan.block)

    @property
    def _may_send(self) -> bool:
        """Whether blocks can be sent now: a recovery under way sends what is planned when it is done."""
        return not self._recovering.locked()

    async def keep(self) -> None:
        """Have the session's replicas go on holding it, and place anew what they have lost. Raises SESSION_LOST."""
        attempt = self._attempt
        try:
            await self._in_time(asyncio.gather(*(self._graph.keep(p, r, self._agreed) for p, r in self._held.items())))
        except PartLost as loss:
            await self._recover(attempt, loss)
            if block_of_frame(self._next_frame) > self._newest:
                self._arrived()
        await self._prune()

    async def close(self) -> None:
        """Forget the session everywhere."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        async with self._recovering:
            # A recovery that was under way gives up at its next step, so that it places nothing behind our back.
            pass
        if self._spec is not None:
            await asyncio.gather(*(self._close(part, replica) for part, replica in self._held.items()))
            with suppress(PartLost):
                await self._graph.forget(self._session, self._attempt)

    def let_go(self) -> None:
        """The session is another owner's: leave everything to that one."""
        self._closed = True
        for task in self._tasks:
            task.cancel()

    async def release(self) -> None:
        """Have the replicas forget a session that went on without them; those that its next owner has keep it."""
        if self._spec is not None:
            await asyncio.gather(*(self._close(part, replica) for part, replica in self._held.items()))

    def protect(self) -> None:
        """Have both parts exported soon."""
        for part, replica in self._held.items():
            self._spawn(self._quietly(self._graph.protect(part, replica, self._agreed, self._attempt)))

    # ---- blocks ------------------------------------------------------------------------------------------------------------

    def _send(self, block: int) -> None:
        """Start the block at the present attempt; its latents may be there already."""
        denoiser, decoder = self.replicas
        if block not in self._latents:
            self._latents[block] = self._graph.denoise(denoiser, self._agreed, self._due(block), self._attempt)
        self._calls[block] = self._graph.decode(
            decoder, self._agreed, self._plans[block], self._latents[block], self._next_frame, self._attempt
        )

    def _due(self, block: int) -> BlockPlan:
        """The block's plan, as it is to be sent now."""
        plan = self._plans[block]
        if plan.due_s is None:
            return plan
        # A block that is made again is due when it first was, and has less time left or is late.
        return dataclasses.replace(plan, due_s=plan.due_s - (self._now() - self._planned_at[block]))

    async def _deliver(self, block: int) -> AsyncIterator[VideoPart]:
        """The block's parts, each frame once, whatever is lost meanwhile."""
        while self._next_frame < block_frames(block).stop:
            attempt = await self._ready(block)
            try:
                async for part in self._parts(block, attempt):
                    yield part
            except PartLost as loss:
                await self._recover(attempt, loss)
        self._calls.pop(block, None)
        if (block + 1) % (self._export_blocks or PRUNE_BLOCKS) == 0:
            self._spawn(self._prune())

    async def _ready(self, block: int) -> int:
        """Wait until the block is on its way; gives the attempt."""
        async with self._recovering:
            return self._attempt

    async def _parts(self, block: int, attempt: int) -> AsyncIterator[VideoPart]:
        """What comes of the block at one attempt, from the first frame not given out on. Raises `PartLost`."""
        while self._replayed:
            await self._in_time(self._graph.made(self._replayed[0]))
            self._replayed.pop(0)
        for earlier in sorted(b for b in self._calls if b < block):
            # Decoded again for what the decoder remembers of it.
            async for _ in self._timely(self._calls[earlier]):
                pass
            self._calls.pop(earlier, None)
        async for part in self._timely(self._calls[block]):
            if part.frames[-1].index < self._next_frame:
                continue
            if part.frames[0].index != self._next_frame:
                raise RuntimeError(f"frame {part.frames[0].index} came where frame {self._next_frame} is next")
            self._next_frame = part.frames[-1].index + 1
            self._arrived()
            yield part
            if attempt != self._attempt:
                return
        if self._next_frame < block_frames(block).stop:
            raise PartLost(f"block {block} ended before its last frame")

    def _arrived(self) -> None:
        """There is a frame, or all is ready for one."""
        if self._moving and self._lost_at is not None:
            parts = tuple(part for part in Part if part in self._moving)
            block = block_of_frame(max(self._next_frame - 1, 0))
            self._listener(Moved(parts, block, self._next_frame, self._now() - self._lost_at))
        self._moving.clear()
        self._lost_at, self._fruitless = None, 0

    # ---- losses ------------------------------------------------------------------------------------------------------------

    async def _recover(self, seen: int, loss: PartLost) -> None:
        """Bring the session to where its next frame can be made, after a loss noticed at attempt `seen`.

        Raises `ServiceError` SESSION_LOST when that cannot be done, or not in time.
        """
        async with self._recovering:
            if seen != self._attempt:
                return
            if self._lost_at is None:
                self._lost_at = self._now()
            log.warning("at frame %d: %s", self._next_frame, loss, extra={"session_id": self._session})
            self._fruitless += 1
            if self._fruitless > 1:
                await asyncio.sleep(min(RETRY_S * 2 ** (self._fruitless - 2), MAX_RETRY_S))
            while True:
                if self._closed:
                    raise fail("SESSION_ENDED", "the session was closed") from loss
                self._check_patience(self._lost_at, loss)
                self._attempt += 1
                try:
                    await self._restore()
                    return
                except PartLost as again:
                    loss = again
                except NoPlace as nowhere:
                    loss = PartLost(str(nowhere))
                    # The one that did not answer may be the only one there is.
                    self._avoid = dict.fromkeys(Part, "")
                await asyncio.sleep(RETRY_S)

    async def _restore(self) -> None:
        """Find out what is left, have each part stand where it must, and send what is to be made again."""
        denoised, decoded = await asyncio.gather(self._settle(Part.DENOISER), self._settle(Part.DECODER))
        wanted = block_of_frame(self._next_frame)
        if decoded != wanted:
            decoded = await self._go_back(Part.DECODER, wanted, alive=decoded is not None)
        # Latents that led to frames are there; others only if the Denoiser that made them says so. If that led nowhere
        # before, they may have been lost on their way.
        shown = wanted + (self._next_frame > block_frames(wanted).start)
        sure = 0 if self._fruitless > 1 else max(shown, denoised or 0)
        planned = self._newest + 1
        lacking = next((b for b in range(decoded, planned) if b not in self._latents or b >= sure), planned)
        if denoised is None or denoised > lacking:
            denoised = await self._go_back(Part.DENOISER, lacking, alive=denoised is not None)
        self._send_again(denoised, decoded, wanted)

    def _send_again(self, denoised: int, decoded: int, wanted: int) -> None:
        """Send every block that the parts, standing where they do, have yet to make."""
        newest = self._newest
        self._calls.clear()
        for block in [b for b in self._latents if b >= denoised]:
            del self._latents[block]
        self._replayed = []
        denoiser, _ = self.replicas
        for block in range(denoised, min(decoded, newest + 1)):
            self._latents[block] = self._graph.denoise(denoiser, self._agreed, self._due(block), self._attempt)
            self._replayed.append(self._latents[block])
        for block in range(decoded, newest + 1):
            self._send(block)

    async def _settle(self, part: Part) -> int | None:
        """The block before which the part stands, if it is still there."""
        replica = self._held.get(part)
        if replica is None:
            return None
        try:
            return await self._in_time(self._graph.settle(part, replica, self._agreed, self._attempt))
        except PartLost as loss:
            log.warning("%s %s: %s", part, replica, loss, extra={"session_id": self._session})
        del self._held[part]
        self._avoid[part] = replica
        # It may only be slow, and would hold the session until it is swept.
        self._spawn(self._close(part, replica))
        return None

    async def _go_back(self, part: Part, block: int, *, alive: bool) -> int:
        """Have the part stand before this block or an earlier one; gives which."""
        if self._make_sure is not None:
            await self._make_sure()
        spec, replica = self._agreed, self._held.get(part) if alive else None
        for at in await self._in_time(self._graph.exports(part, self._session)):
            if at > block or (at not in self._plans and at != self._newest + 1):
                continue
            try:
                adopting = self._graph.adopt(part, spec, at, self._attempt, replica=replica, avoid=self._avoid[part])
                await self._place(part, adopting)
                return at
            except ExportRefused as refused:
                log.error("export before block %d refused: %s", at, refused, extra={"session_id": spec.session})
        if self._portrait is None or (self._plans and min(self._plans) > 0):
            raise fail("SESSION_LOST", f"the {part} is lost and no export of it can be adopted", retry_after_s=1.0)
        opening = self._graph.open(part, spec, self._portrait, self._attempt, self._avoid[part])
        await self._place(part, opening)
        return 0

    async def _place(self, part: Part, placing: Awaitable[str]) -> None:
        """Wait for a replica to take the part, and note which did."""
        taken = asyncio.ensure_future(placing)
        try:
            replica = await self._in_time(asyncio.shield(taken))
        except BaseException:
            taken.add_done_callback(lambda done: self._came_late(part, done))
            raise
        if self._held.get(part) != replica:
            self._moving.add(part)
        self._held[part] = replica

    def _came_late(self, part: Part, taken: asyncio.Future[str]) -> None:
        """A replica took the part when nobody waited for it any more: it is not to hold it for ever."""
        if not taken.cancelled() and taken.exception() is None and self._held.get(part) != taken.result():
            self._spawn(self._close(part, taken.result()))

    # ---- what is kept ------------------------------------------------------------------------------------------------------

    @property
    def _newest(self) -> int:
        """The newest block planned; -1 before the first."""
        return max(self._plans, default=-1)

    async def _prune(self) -> None:
        """Forget the plans that come before the oldest of each part's exports."""
        try:
            held = [await self._in_time(self._graph.exports(part, self._session)) for part in Part]
        except PartLost:
            held = [[]]
        if self._recovering.locked():
            return
        safe = min((blocks[-1] if len(blocks) > 1 else 0) for blocks in held)
        base = max(safe, self._newest + 1 - MAX_KEPT_BLOCKS)
        for kept in (self._plans, self._planned_at, self._latents):
            for block in [b for b in kept if b < base]:
                del kept[block]
        if base > 0:
            self._portrait = None

    async def _close(self, part: Part, replica: str) -> None:
        await self._quietly(self._graph.close(part, replica, self._agreed, self._attempt))

    async def _quietly(self, call: Awaitable[None]) -> None:
        with suppress(PartLost):
            await self._in_time(call)

    # ---- time --------------------------------------------------------------------------------------------------------------

    def _check_patience(self, since: float, loss: PartLost) -> None:
        if self._now() - since > self._patience.place_s:
            text = f"a replica was lost and none took its place within {self._patience.place_s:g} s: {loss}"
            raise fail("SESSION_LOST", text, retry_after_s=ASK_AGAIN_S)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = independent(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def _agreed(self) -> SessionSpec:
        assert self._spec is not None
        return self._spec

    @property
    def _session(self) -> str:
        return self._agreed.session
