"""A session that goes on in another process than the one that ran it: from its journal, and from what its replicas hold."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import numpy as np

from liveact_models.blob import StateError
from liveact_models.timeline import FRAMES_PER_LATENT, block_frames, block_of_frame
from liveact_services.conductor.conductor import Started
from liveact_services.conductor.idle_loop import moved
from liveact_services.conductor.moving import MovingStages
from liveact_services.conductor.parts import Part, PartLost
from liveact_services.conductor.points import (
    OPENING,
    PORTRAIT,
    Opening,
    Page,
    State,
    unpack_opening,
    unpack_page,
    unpack_portrait,
)
from liveact_services.conductor.speech import Speech
from liveact_services.conductor.stages import BlockPlan, SessionSpec, StageTimes, VideoPart
from liveact_services.errors import fail

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Remains:
    """What a session left behind, as far as a client can go on from it that wants `frame` next."""

    frame: int
    opening: Opening
    portrait: np.ndarray | None
    pages: dict[int, tuple[Page, bytes]]
    """By the block as it is shown: those that may have to be made again, without a gap, up to the newest."""
    others: dict[str, bytes]

    @classmethod
    def of(cls, held: Mapping[str, bytes], frame: int) -> Remains:
        """Read a session's journal.

        Raises `ServiceError`: SESSION_LOST without one, RESUME_FRAME_UNAVAILABLE where it does not tell of that frame.
        """
        pages: dict[int, tuple[Page, bytes]] = {}
        opening, portrait = None, None
        for name, data in held.items():
            try:
                if name == OPENING:
                    opening = unpack_opening(data)
                elif name == PORTRAIT:
                    portrait = unpack_portrait(data)
                else:
                    page = unpack_page(data)
                    pages[page.block] = page, data
            except StateError as error:
                log.error("page %s of a journal: %s", name, error)
        if opening is None:
            raise fail("SESSION_LOST", "the server that held this session has gone, and its journal with it")
        others = {name: held[name] for name in (OPENING, PORTRAIT) if name in held}
        return cls(frame, opening, portrait, _run(pages, frame), others)

    @property
    def state(self) -> State:
        """After the newest block."""
        if not self.pages:
            return State.begun(Speech(self.opening.spec.rate, self.opening.spec.fps).state(0))
        return self.pages[max(self.pages)][0].state

    @property
    def plans(self) -> dict[int, BlockPlan]:
        """Of the blocks that were sent through the stages, as those count them."""
        return {page.made: page.plan for page, _ in self.pages.values() if page.plan is not None}

    @property
    def made_frame(self) -> int:
        """The first frame wanted of the stages, as they count."""
        block = block_of_frame(self.frame)
        if block not in self.pages:
            return block_frames(self.state.made).start
        page, _ = self.pages[block]
        given = 0 if page.plan is None else self.frame - block_frames(block).start
        return block_frames(page.made).start + given

    def again(self, stages: SucceedingStages) -> list[Started]:
        """The blocks that the client has not seen to their end."""
        started = []
        for block in sorted(b for b in self.pages if block_frames(b).stop > self.frame):
            page, _ = self.pages[block]
            given = max(0, self.frame - block_frames(block).start)
            if page.plan is None:
                parts = _shown(page, given)
            else:
                parts = stages.again(page.made)
                parts = parts if page.made == block else moved(parts, page.made, block)
            started.append(Started(page, parts, 0.0, given, again=True))
        return started


class SucceedingStages(MovingStages):
    """`MovingStages` that may begin in the middle of a session, as its next owner's."""

    def inherit(self, remains: Remains, replicas: Mapping[Part, str]) -> None:
        """Have `open` go on with a session that these replicas held last, instead of beginning one."""
        self._spec, self._portrait = remains.opening.spec, remains.portrait
        self._held = {part: replica for part, replica in replicas.items() if replica}
        self._plans, self._next_frame = remains.plans, remains.made_frame
        self._planned_at = dict.fromkeys(self._plans, self._now())
        self._inherited, self._made = True, remains.state.made

    _inherited = False
    _made = 0
    """Blocks planned before this owner's."""

    @property
    def _newest(self) -> int:
        return max(self._plans, default=self._made - 1)

    async def open(self, spec: SessionSpec, portrait: np.ndarray | None) -> None:
        """As `MovingStages.open`, or bring an inherited session to where its next frame can be made.

        Raises `ServiceError`: also SESSION_TAKEN_OVER.
        """
        if not self._inherited:
            return await super().open(spec, portrait)
        await self._recover(self._attempt, PartLost("the server that ran the session has gone"))
        if block_of_frame(self._next_frame) > self._newest:
            self._arrived()
        self.tend()

    def again(self, block: int) -> AsyncIterator[VideoPart]:
        """What is left of an inherited block; to be taken in order, after `open`."""
        return self._deliver(block)


def _run(pages: Mapping[int, tuple[Page, bytes]], frame: int) -> dict[int, tuple[Page, bytes]]:
    """The pages without a gap around the block of this frame, and those that lead there. Raises `ServiceError`."""
    if frame < 0:
        raise fail("RESUME_FRAME_UNAVAILABLE", f"frame {frame} is wanted: frames count from 0")
    wanted = block_of_frame(frame)
    newest = wanted if wanted in pages else wanted - 1
    # Of a block that was not planned its first frame can be wanted, and nothing more.
    known = newest in pages if pages else newest < 0
    if not known or (newest < wanted and frame != block_frames(wanted).start):
        told = f"blocks {min(pages)} to {max(pages)}" if pages else "no block"
        raise fail(
            "RESUME_FRAME_UNAVAILABLE", f"frame {frame} of block {wanted} is wanted; the journal tells of {told}"
        )
    while newest + 1 in pages:
        newest += 1
    run: dict[int, tuple[Page, bytes]] = {}
    following = pages[newest][0].state.made if newest >= 0 else 0
    for block in sorted((b for b in pages if b <= newest), reverse=True):
        page, _ = pages[block]
        if page.plan is None:
            if block >= wanted or block == newest:
                run[block] = pages[block]
        elif page.made == following - 1:
            following = page.made
            run[block] = pages[block]
        else:
            break
    return dict(sorted(run.items()))


async def _shown(page: Page, given: int) -> AsyncIterator[VideoPart]:
    """A block that is only shown again, from that frame of it on."""
    for at in range(given, len(page.frames), FRAMES_PER_LATENT):
        yield VideoPart(page.block, page.frames[at : at + FRAMES_PER_LATENT], StageTimes())
