"""A session's journal: its plans and what it has become, in the Vault before the client sees anything of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from liveact_models.timeline import block_frames, block_of_frame
from liveact_services.conductor.archive import Archive, Writing
from liveact_services.conductor.parts import Part
from liveact_services.conductor.points import (
    OPENING,
    PORTRAIT,
    Opening,
    Page,
    Position,
    pack_opening,
    pack_page,
    pack_portrait,
)
from liveact_services.errors import ServiceError
from liveact_services.independent import independent

WAIT_S = 2.0
"""How long a block's first frame waits for its page. A Vault that takes longer costs protection, and once this time."""
ANSWER_S = 10.0
"""How long an answer is waited for before the same is written again."""
RETRY_S, MAX_RETRY_S = 1.0, 8.0
"""Between two tries; doubled with each, so that what does not fit is not offered all the time."""
MAX_PAGES = 64
"""Blocks kept for a session of which no export comes."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Kept:
    data: bytes
    made: int | None
    """The number of the block as it is made; None for one that is only shown again."""
    count: int
    """Blocks made before it."""
    position: Position


class Journal:
    """One session's pages: those the Vault is to hold, and the task that brings them there.

    A page's writing runs beside the block's making; `written` waits for it before the first frame. While the Vault does not
    answer nobody waits, and what is missing is written when it is back, also after it lost everything.
    """

    def __init__(self, archive: Archive, session: str, attempt: int, lost: Callable[[], None] = lambda: None) -> None:
        """`lost`: called when the Vault turns out to have lost exports that it had."""
        self._archive, self._session, self._attempt, self._lost = archive, session, attempt, lost
        self._pages: dict[int, _Kept] = {}
        self._others: dict[str, bytes] = {}
        self._unwritten: set[str] = set()
        self._acked = 0
        self._cut: int | None = None
        self._exports: Mapping[Part, list[int]] = {}
        self._healthy = True
        self._sure = Position()
        """Where the newest page stands before which, and with which, all are written."""
        self._taken: ServiceError | None = None
        self._progress = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes kept here, so that the Vault can be given them again."""
        return sum(len(page.data) for page in self._pages.values()) + sum(map(len, self._others.values()))

    # ---- what is to be kept ------------------------------------------------------------------------------------------------

    def open(self, opening: Opening, portrait: np.ndarray) -> None:
        """The session begins."""
        self._others = {OPENING: pack_opening(opening), PORTRAIT: pack_portrait(portrait)}
        self._write(*self._others)

    def note(self, page: Page) -> None:
        """A block was planned."""
        self._keep(page, pack_page(page))
        while len(self._pages) > MAX_PAGES:
            self._forget(min(self._pages))
        self._write(page.name)

    def go_on(self, pages: Mapping[int, tuple[Page, bytes]], others: Mapping[str, bytes], cut: int, frame: int) -> None:
        """Take over what an earlier owner wrote, as it lies in the Vault: what is not named here is to go.

        `cut`: the blocks made so far; exports that have more are not this session's any more. `frame`: the first the client
        wants.
        """
        self._others = dict(others)
        for page, data in pages.values():
            self._keep(page, data)
            self._sure = page.state.position
        self._acked, self._cut = frame, cut
        self._write()

    def acked(self, frame: int) -> None:
        """The client has everything before this frame and will not ask for it."""
        self._acked = max(self._acked, frame)

    async def opened(self) -> None:
        """Wait as `written` does, for what a session begins with: until then nobody else could go on with it."""
        await self._secured(OPENING)

    async def written(self, block: int) -> None:
        """Wait until the block's page is in the Vault, or cannot be in time.

        Raises `ServiceError` SESSION_TAKEN_OVER when the session is somebody else's by now.
        """
        await self._secured(str(block))

    async def _secured(self, name: str) -> None:
        if self._healthy and self._lacks(name):
            with suppress(TimeoutError):
                async with asyncio.timeout(WAIT_S):
                    while self._healthy and self._lacks(name):
                        self._progress.clear()
                        await self._progress.wait()
            if self._healthy and self._lacks(name):
                self._failed(f"nothing came for {WAIT_S:g} s")
        if self._taken is not None:
            raise self._taken

    @property
    def position(self) -> Position:
        """What the client may forget: no request before this one is asked for again."""
        return self._sure

    def touch(self) -> None:
        """Have the Vault asked whether it still holds everything, and told that the session lives."""
        self._write()

    def close(self) -> None:
        """Write no more."""
        if self._writer is not None:
            self._writer.cancel()

    # ---- how it comes there ------------------------------------------------------------------------------------------------

    def _lacks(self, name: str) -> bool:
        return name in self._unwritten and self._taken is None

    def _keep(self, page: Page, data: bytes) -> None:
        made = None if page.plan is None else page.made
        self._pages[page.block] = _Kept(data, made, page.made, page.state.position)

    def _write(self, *names: str) -> None:
        self._unwritten.update(names)
        if self._taken is None and (self._writer is None or self._writer.done()):
            self._writer = independent(self._write_all())

    async def _write_all(self) -> None:
        asked, pause_s = False, RETRY_S
        while self._unwritten or not asked:
            try:
                async with asyncio.timeout(ANSWER_S):
                    await self._write_once()
                self._healthy = asked = True
                self._progress.set()
            except Exception as error:
                if isinstance(error, ServiceError) and error.reason == "SESSION_TAKEN_OVER":
                    self._taken = error
                    self._progress.set()
                    return
                # Full, away or slow: the session goes on without its protection.
                self._failed(f"{type(error).__name__}: {error}")
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_RETRY_S)

    async def _write_once(self) -> None:
        held = {**{str(block): page.data for block, page in self._pages.items()}, **self._others}
        pages = {name: held[name] for name in self._unwritten if name in held}
        cut = self._cut
        floor = self._floor
        kept = await self._archive.write(self._session, self._attempt, Writing(pages, tuple(held), floor, cut))
        if cut == self._cut:
            self._cut = None
        lost = any(self._exports.get(part) and not blocks for part, blocks in kept.exports.items())
        self._exports = kept.exports
        self._prune(floor)
        # Whatever it lacks it has lost, unless it was not asked to keep it yet.
        everything = {*map(str, self._pages), *self._others}
        self._unwritten = everything - kept.pages
        self._sure = self._written_through()
        if lost:
            self._lost()

    @property
    def _floor(self) -> int:
        """The block, as it is made, before which the stages must be able to stand for the client to get all it may ask for."""
        shown = block_of_frame(self._acked)
        if (page := self._pages.get(shown)) is not None:
            return page.count
        newest = max(self._pages, default=None)
        if newest is None or newest > shown:
            return 0
        last = self._pages[newest]
        return last.count + (last.made is not None)

    def _prune(self, floor: int) -> None:
        """Forget the blocks that come before the newest export of each part that is not ahead of the client."""
        base = min(max((b for b in self._exports.get(part, []) if b <= floor), default=0) for part in Part)
        # The newest stays whatever its block: in it is what the session has become.
        for block, page in sorted(self._pages.items())[:-1]:
            if block_frames(block).stop <= self._acked if page.made is None else page.made < base:
                self._forget(block)
        if base > 0:
            self._others.pop(PORTRAIT, None)
            self._unwritten.discard(PORTRAIT)

    def _forget(self, block: int) -> None:
        del self._pages[block]
        self._unwritten.discard(str(block))

    def _written_through(self) -> Position:
        sure = self._sure
        for block in sorted(self._pages):
            if str(block) in self._unwritten:
                break
            sure = self._pages[block].position if self._pages[block].position.request >= sure.request else sure
        return sure

    def _failed(self, why: str) -> None:
        if self._healthy:
            log.warning("the journal is behind: %s", why, extra={"session_id": self._session})
        self._healthy = False
        self._progress.set()
