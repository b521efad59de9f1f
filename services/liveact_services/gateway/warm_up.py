"""The first session of a Gateway: one that nobody sees, so that nobody waits for what happens only once."""

from __future__ import annotations

import time

import numpy as np

from liveact_models.config import DEFAULT_PROMPT, ModelConfig
from liveact_models.timeline import block_sound_frames
from liveact_models.voice import VoiceBuffer
from liveact_services.conductor.stages import BlockPlan, Codec, Idle, Pacing, SessionSpec, Stages
from liveact_services.sessions import names

BLOCKS = 3
"""The third is the first that reads compressed memory."""
RATE = 16000


async def warm_up(stages: Stages, model: ModelConfig, pool: str) -> float:
    """Make a few blocks of silence at the default size and throw them away; gives the seconds it took.

    In every pool: each has Denoisers of its own.
    """
    began = time.perf_counter()
    width, height = model.limits.default
    spec = SessionSpec(
        session=f"warm-{names.new_id()}", width=width, height=height, fps=model.fps, codec=Codec.H264,
        pacing=Pacing.FASTEST, idle=Idle.ANIMATE, seed=0, prompt=DEFAULT_PROMPT, rate=RATE, pool=pool,
    )  # fmt: skip
    await stages.open(spec, np.zeros((3, height, width), np.float32))
    try:
        voice = VoiceBuffer(RATE, model.fps)
        voice.append(np.zeros(voice.boundary(block_sound_frames(BLOCKS - 1).stop), np.float32), voiced=False)
        for block in range(BLOCKS):
            async for _ in stages.submit(BlockPlan(block, voice.window(block))):
                pass
    finally:
        await stages.close()
    return time.perf_counter() - began
