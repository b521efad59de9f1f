"""The first blocks of a Denoiser: of a session that nobody sees, so that no session waits for what happens only once.

The Gateway's own first session (`gateway/warm_up.py`) goes through one replica of each pool. On a GPU every replica has kernels
to load and to choose, whenever it starts.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from liveact_models.config import DEFAULT_PROMPT
from liveact_models.timeline import WINDOW_SLOTS, block_feature_frames
from liveact_services.conductor.stages import Codec, Features, Idle, Pacing, SessionSpec
from liveact_services.denoiser.rank import Conditions

if TYPE_CHECKING:
    from liveact_models.config import ModelConfig
    from liveact_services.denoiser.rank import RankGroup

BLOCKS = 2
"""The second has a context and its shapes are those of all that follow."""
SESSION = "warm-up"


def warm_up(ranks: RankGroup, model: ModelConfig) -> float:
    """Make the first blocks of a session at the default size, of silence, and forget it; gives the seconds it took."""
    began = time.perf_counter()
    width, height = model.limits.default
    sizes = model.transformer
    spec = SessionSpec(
        session=SESSION, width=width, height=height, fps=model.fps, codec=Codec.H264, pacing=Pacing.FASTEST,
        idle=Idle.ANIMATE, seed=0, prompt=DEFAULT_PROMPT, rate=16000,
    )  # fmt: skip
    conditions = Conditions(
        text=np.zeros((sizes.text_len, sizes.text_dim), np.float32),
        clip=np.zeros((sizes.clip_tokens, sizes.clip_dim), np.float32),
        reference=np.zeros((sizes.out_dim, WINDOW_SLOTS, height // 8, width // 8), np.float32),
    )
    ranks.open(spec, conditions)
    try:
        for block in range(BLOCKS):
            rows = len(block_feature_frames(block))
            silence = np.zeros((rows, sizes.audio_blocks, sizes.audio_channels), np.float32)
            ranks.begin(SESSION, block, Features(silence, 0.0), None)
            while ranks.advance(SESSION) is None:
                pass
    finally:
        ranks.close(SESSION)
    return time.perf_counter() - began
