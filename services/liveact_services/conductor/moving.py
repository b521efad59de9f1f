"""A session that leaves its replicas before they go, at a block boundary, and gives back the Denoiser's place when it rests.

What is lost is made again (`resilient.py`); nothing is lost here. The replica finishes the block it is making and puts the part's
value into the Vault, another goes on from it, and only blocks that nobody had begun are sent again. What was made before the
boundary goes on to be shown meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from liveact_models.timeline import block_frames, block_of_frame
from liveact_services.conductor.parts import ExportRefused, Moved, NoPlace, Part, PartLost
from liveact_services.conductor.resilient import ResilientStages
from liveact_services.errors import ServiceError

if TYPE_CHECKING:
    import numpy as np

    from liveact_services.conductor.parts import Graph
    from liveact_services.conductor.patience import Patience
    from liveact_services.conductor.stages import BlockPlan, Boundary, SessionSpec, VideoPart

LOOK_S = 0.5
"""How often it is looked at whether a replica leaves."""
DELIVERY_S = 3.0
"""How long a session that is to leave waits for the block that is coming: what the client then has hides the move."""
PACKING_S, PACKED_LOOK_S = 5.0, 0.1
"""How long a session that goes to another cluster waits for its exports, and how often it looks for them."""
AGAIN_S, MAX_AGAIN_S = 1.0, 8.0
"""After a move for which there was no place; doubled each time."""

log = logging.getLogger(__name__)


class MovingStages(ResilientStages):
    """One session's `Stages`: `ResilientStages` that also holds its replicas, leaves them in time, and parks."""

    def __init__(
        self,
        graph: Graph,
        patience: Patience,
        export_blocks: int,
        park_after_s: float | None = None,
        now: Callable[[], float] = time.monotonic,
        attempt: int = 0,
        make_sure: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`park_after_s`: after so long without a block the Denoiser's place is given back; None: never."""
        super().__init__(graph, patience, export_blocks, now, attempt, make_sure)
        self._park_after_s = park_after_s
        self._rests_since = now()
        self._tending = False
        self._handing_over = False
        self._holds: dict[Part, str] = {}
        """The replica of each part that is held by an open call."""
        self._suspect: dict[Part, str] = {}
        """Those of which that call broke."""
        self._again: dict[Part, tuple[float, float]] = {}
        """Of parts that found no place to go to: when they try again, and how long they then wait."""
        self._asked_away: dict[Part, str] = {}
        """Replicas of parts that want the session to leave, for another to have its place."""
        self._delivered, self._stirred = asyncio.Event(), asyncio.Event()

    @property
    def parked(self) -> bool:
        """Whether no Denoiser holds the session, because it rests."""
        return self._tending and Part.DENOISER not in self._held

    # ---- as its caller sees it ---------------------------------------------------------------------------------------------

    async def open(self, spec: SessionSpec, portrait: np.ndarray | None) -> None:
        """Condition the session, place it and watch over it. Raises `ServiceError`."""
        await super().open(spec, portrait)
        self.tend()

    def tend(self) -> None:
        """Begin to watch over a session that is placed."""
        self._tending, self._rests_since = True, self._now()
        self._spawn(self._tend())

    def submit(self, plan: BlockPlan) -> AsyncIterator[VideoPart]:
        """Send the block through all its stages now, or once a Denoiser has the session again."""
        self._rests_since = self._now()
        return super().submit(plan)

    async def keep(self) -> None:
        """Have what holds the session go on holding it, and its value be in the Vault, also in one that was replaced."""
        await super().keep()
        for part, replica in list(self._held.items()):
            with suppress(PartLost):
                if self._rests and not await self._in_time(self._graph.exports(part, self._session)):
                    await self._handed_over(part, replica, self._stay)

    async def pack(self) -> None:
        """Have both parts exported, and wait until they are, but not for long: older exports cost more, and serve too."""
        newest = self._newest
        self.protect()
        with suppress(TimeoutError, PartLost):
            async with asyncio.timeout(PACKING_S):
                while self._export_blocks and not all([await self._exported(part, newest) for part in Part]):
                    await asyncio.sleep(PACKED_LOOK_S)

    async def _exported(self, part: Part, block: int) -> bool:
        return max(await self._graph.exports(part, self._session), default=-1) >= block

    @property
    def _may_send(self) -> bool:
        return super()._may_send and not self.parked

    async def _deliver(self, block: int) -> AsyncIterator[VideoPart]:
        async for part in super()._deliver(block):
            yield part
        self._rests_since = self._now()
        self._delivered.set()

    async def _ready(self, block: int) -> int:
        # What is before the boundary of a move comes as if there were none.
        if self._handing_over and block in self._calls:
            return self._attempt
        while True:
            attempt = await super()._ready(block)
            if not self.parked:
                return attempt
            await self._recover(attempt, PartLost("the denoiser part is parked"))

    # ---- watching ----------------------------------------------------------------------------------------------------------

    async def _tend(self) -> None:
        while True:
            for part, replica in self._held.items():
                if self._holds.get(part) != replica:
                    self._holds[part] = replica
                    self._spawn(self._hold(part, replica))
            self._stirred.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._stirred.wait()
            try:
                await self._look()
            except ServiceError as error:
                # Whoever asks for the next block, or says that the session is wanted, is told so too.
                log.warning("%s", error, extra={"session_id": self._session})
            except Exception:
                log.exception("the session is looked after again", extra={"session_id": self._session})

    async def _look(self) -> None:
        if self._recovering.locked():
            return
        for part, replica in list(self._held.items()):
            due, _ = self._again.get(part, (0.0, 0.0))
            # Asked once: where there is no other place the session stays, and whoever asked has to wait.
            asked = self._asked_away.pop(part, None) == replica
            if asked or (self._graph.leaving(part, replica) and self._now() >= due):
                await self._leave(part, replica)
        if self._suspect:
            self._suspect.clear()
            # Blocks that are under way find out by themselves.
            if not self._calls:
                await super().keep()
        if self._park_after_s is not None and self._now() - self._rests_since > self._park_after_s and self._rests:
            await self._park(self._held[Part.DENOISER])

    async def _hold(self, part: Part, replica: str) -> None:
        """An open call for as long as the part is there: its replica stays for it, and its end tells of the replica's."""
        with suppress(PartLost):
            async for _ in self._graph.hold(part, replica, self._agreed):
                self._asked_away[part] = replica
                self._stirred.set()
        if self._held.get(part) == replica:
            self._suspect[part] = replica
            self._stirred.set()
        # One that breaks at once again is not asked all the time.
        await asyncio.sleep(LOOK_S)
        if self._holds.get(part) == replica:
            del self._holds[part]

    @property
    def _rests(self) -> bool:
        """Whether all that was planned has been given out, by replicas that are well."""
        given = block_of_frame(self._next_frame) > self._newest
        return given and not self._calls and self._lost_at is None and not self.parked

    # ---- leaving -----------------------------------------------------------------------------------------------------------

    async def _leave(self, part: Part, replica: str) -> None:
        """Take the part off a replica that goes, if it finds a place. Raises `ServiceError` SESSION_LOST."""
        async with self._graph.turn(replica):
            if self._calls:
                self._delivered.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(DELIVERY_S):
                        await self._delivered.wait()
            await self._handed_over(part, replica, self._move)

    async def _park(self, replica: str) -> None:
        """Give the Denoiser's place back. Raises `ServiceError` SESSION_LOST."""
        self._rests_since = self._now()
        await self._handed_over(Part.DENOISER, replica, self._give_back)

    async def _handed_over(
        self, part: Part, replica: str, then: Callable[[Part, str, Boundary, int], Awaitable[None]]
    ) -> None:
        """Have the replica finish its block and put the part's value into the Vault; `then` says where it goes on."""
        async with self._recovering:
            if self._closed or self._held.get(part) != replica or self._lost_at is not None:
                return
            attempt, self._handing_over = self._attempt + 1, True
            try:
                asked = self._now()
                boundary = await self._in_time(self._graph.hand_over(part, replica, self._agreed, attempt))
                await then(part, replica, boundary, attempt)
                # Not before: a call that was sent away meanwhile is a loss only if nothing takes its place.
                self._attempt = attempt
                if part in self._held:
                    self._send_from(part, boundary.block)
                if self._held.get(part, replica) != replica:
                    self._tell(part, boundary, self._now() - asked - boundary.finishing_s)
                return
            except PartLost as loss:
                lost, self._attempt = loss, attempt
                # Whoever waits for one of these finds it on its way, and lost.
                for planned in range(block_of_frame(self._next_frame), self._newest + 1):
                    if planned not in self._calls:
                        self._send(planned)
            finally:
                self._attempt, self._handing_over = attempt, False
        await self._recover(attempt, lost)
        if block_of_frame(self._next_frame) > self._newest:
            self._arrived()

    async def _move(self, part: Part, replica: str, boundary: Boundary, attempt: int) -> None:
        block, spec = boundary.block, self._agreed
        try:
            if not boundary.saved:
                raise NoPlace("its value could not be put into the Vault")
            if self._make_sure is not None:
                await self._make_sure()
            adopting = self._graph.adopt(part, spec, block, attempt, replica=None, avoid=replica)
            await self._place(part, adopting)
        except (NoPlace, ExportRefused) as nowhere:
            _, waited = self._again.get(part, (0.0, 0.0))
            wait = min(2 * waited, MAX_AGAIN_S) or AGAIN_S
            self._again[part] = (self._now() + wait, wait)
            log.info("%s stays on %s: %s", part, replica, nowhere, extra={"session_id": spec.session})
            return
        self._again.pop(part, None)
        self._moving.discard(part)
        self._avoid[part] = replica
        self._spawn(self._close(part, replica))
        self._stirred.set()

    def _tell(self, part: Part, boundary: Boundary, stall_s: float) -> None:
        frame = max(self._next_frame, block_frames(boundary.block).start)
        shown = block_of_frame(max(self._next_frame - 1, 0))
        self._listener(Moved((part,), shown, frame, stall_s, "leaving"))

    async def _stay(self, part: Part, replica: str, boundary: Boundary, attempt: int) -> None:
        """The value is in the Vault, and the part stays where it is."""

    async def _give_back(self, part: Part, replica: str, boundary: Boundary, attempt: int) -> None:
        # A block may have been asked for since.
        if boundary.saved and self._rests:
            await self._quietly(self._graph.close(part, replica, self._agreed, attempt))
            del self._held[part]

    def _send_from(self, part: Part, block: int) -> None:
        """Send the blocks again that the part has not made."""
        for planned in range(block, self._newest + 1):
            if part is Part.DENOISER:
                self._latents.pop(planned, None)
            self._send(planned)
