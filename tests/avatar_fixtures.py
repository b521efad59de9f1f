"""A Gateway of this process whose frames are real pictures: what viewers and adapters are tested against without Ray."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator

import numpy as np

from liveact_services.client import RecordedVoice
from liveact_services.conductor.stages import BlockPlan, EncodedFrame, SessionSpec, VideoPart
from stage_fixtures import ScriptedStages

SIDE = 32
RATE = 24000


class PaintingStages(ScriptedStages):
    """Raw frames, each of one grey: its number."""

    def __init__(self) -> None:
        super().__init__(0.01, 0.001)

    async def open(self, spec: SessionSpec, portrait: np.ndarray | None) -> None:
        await super().open(spec, portrait)
        self._size = spec.width * spec.height * 3

    def submit(self, plan: BlockPlan) -> AsyncIterator[VideoPart]:
        return self._painted(super().submit(plan))

    async def _painted(self, parts: AsyncIterator[VideoPart]) -> AsyncIterator[VideoPart]:
        async for part in parts:
            frames = tuple(EncodedFrame(f.index, f.key, bytes([f.index % 251]) * self._size) for f in part.frames)
            yield dataclasses.replace(part, frames=frames)


def counting(seconds: float, rate: int = RATE, first: int = 1) -> RecordedVoice:
    """Voice in which neighbouring samples differ and none is zero."""
    samples = (first + np.arange(round(seconds * rate)) % 10000).astype("<i2")
    return RecordedVoice(samples.tobytes(), rate)
