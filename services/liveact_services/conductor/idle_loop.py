"""The idle policy LOOP: a few idle seconds, made once and played back and forth while nobody speaks."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator

from liveact_models.timeline import BLOCK_FRAMES, FRAMES_PER_LATENT, block_frames
from liveact_services.conductor.stages import EncodedFrame, StageTimes, VideoPart

CLIP_BLOCKS = 2
"""Blocks of the clip."""


class ClipBlock:
    """One block of the clip, as it comes out of the stages: complete once its parts were taken."""

    def __init__(self) -> None:
        self._forward: list[EncodedFrame] = []
        self._backward: tuple[EncodedFrame, ...] = ()

    async def keeping(self, parts: AsyncIterator[VideoPart]) -> AsyncIterator[VideoPart]:
        """The same parts; what is needed of them is kept."""
        async for part in parts:
            self._forward += part.frames
            self._backward = part.backward or self._backward
            yield dataclasses.replace(part, backward=())

    async def shown_as(self, block: int, backward: bool) -> AsyncIterator[VideoPart]:
        """The block again, as that block of the session. Read when its turn comes: by then it is complete."""
        frames = self._backward if backward else self._forward
        if len(frames) != BLOCK_FRAMES:
            raise RuntimeError(f"a block of the idle clip has {len(frames)} frames; it takes {BLOCK_FRAMES}")
        start = block_frames(block).start
        moved = tuple(dataclasses.replace(frame, index=start + i) for i, frame in enumerate(frames))
        for at in range(0, len(moved), FRAMES_PER_LATENT):
            yield VideoPart(block, moved[at : at + FRAMES_PER_LATENT], StageTimes())


class IdleLoop:
    """Which of a session's quiet blocks are made, which of them are kept, and what is played in place of the others.

    The first quiet block after speech is made, for the mouth closes in it. The next ones are the clip, unless there is one:
    it is made once a session, and again after another prompt. Then the clip is played, backwards first, since it ends where
    the picture stands. Voice ends the playing with the next block, wherever the clip is then.
    """

    def __init__(self) -> None:
        self._clip: list[ClipBlock] = []
        self._quiet = 0
        """Quiet blocks in a row."""
        self._played = 0
        """Blocks played since they began."""

    @property
    def quiet_blocks(self) -> int:
        """Quiet blocks in a row, so far."""
        return self._quiet

    def begin_again(self, quiet: int) -> None:
        """Go on after so many quiet blocks, without a clip: another is made."""
        self._clip.clear()
        self._quiet, self._played = quiet, 0

    def spoken(self) -> None:
        """A block of voice, or one with another prompt: half a clip is none."""
        self._quiet = self._played = 0
        if len(self._clip) < CLIP_BLOCKS:
            self._clip.clear()

    def forget(self) -> None:
        """The person is to act differently from now on."""
        self._clip.clear()
        self.spoken()

    def quiet(self, block: int) -> ClipBlock | AsyncIterator[VideoPart] | None:
        """A block in which nobody speaks: what to keep of it when it is made, what is shown in its place, or None: made."""
        self._quiet += 1
        if self._quiet == 1:
            return None
        if len(self._clip) < CLIP_BLOCKS:
            self._clip.append(ClipBlock())
            return self._clip[-1]
        way, position = divmod(self._played, CLIP_BLOCKS)
        self._played += 1
        backward = way % 2 == 0
        return self._clip[CLIP_BLOCKS - 1 - position if backward else position].shown_as(block, backward)


async def moved(parts: AsyncIterator[VideoPart], made: int, shown: int) -> AsyncIterator[VideoPart]:
    """The parts of the block `made` as those of the block `shown`: the stages count the blocks they make, not those played."""
    by = block_frames(shown).start - block_frames(made).start
    async for part in parts:
        frames = tuple(dataclasses.replace(frame, index=frame.index + by) for frame in part.frames)
        yield dataclasses.replace(part, block=shown, frames=frames)
