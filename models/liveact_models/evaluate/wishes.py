"""Whether an emotion or an action that was asked for is seen.

An emotion is seen in the look of the face, an action in how head and hand move over a block's length.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from liveact_models.evaluate.judge import Judge, Sight, action_tracks
from liveact_models.timeline import BLOCK_FRAMES
from liveact_models.world.motion import ACTIONS, EMOTIONS

WITHIN = 2 * BLOCK_FRAMES
"""Frames after the prompt within which it is to be seen: two blocks."""
EMOTION_FRAMES = 16
"""Frames over which a look is averaged: one frame's is no emotion."""
STRIDE = 4


def seen_emotions(sight: Sight, start: int, stop: int) -> NDArray[np.int64]:
    """The likeliest emotion of every window of `EMOTION_FRAMES` in frames [start, stop): [windows], index into EMOTIONS."""
    windows = _windows(sight.emotion, start, stop, EMOTION_FRAMES)  # [windows, 5, EMOTION_FRAMES]
    return windows.mean(axis=2).argmax(axis=1)


@torch.inference_mode()
def seen_actions(judge: Judge, sight: Sight, start: int, stop: int) -> NDArray[np.int64]:
    """The likeliest action of every window of one block's length in frames [start, stop): [windows], index into ACTIONS."""
    tracks = _windows(action_tracks(sight.pose), start, stop, BLOCK_FRAMES)
    return judge.action(torch.from_numpy(tracks)).argmax(dim=1).numpy()


def wish_seen(judge: Judge, sight: Sight, asked: int, emotion: str, action: str) -> bool:
    """Whether what was asked for from frame `asked` on is seen within two blocks: "neutral" and "none" ask for nothing.

    Raises `ValueError` for a wish for nothing, or one that fewer than two blocks of frames follow.
    """
    stop = asked + WITHIN
    if (emotion, action) == (EMOTIONS[0], ACTIONS[0]):
        raise ValueError("neither an emotion nor an action was asked for")
    if stop > len(sight):
        raise ValueError(f"asked for at frame {asked} of {len(sight)}: accepted are {WITHIN} frames after it")
    felt = emotion == EMOTIONS[0] or EMOTIONS.index(emotion) in seen_emotions(sight, asked, stop)
    done = action == ACTIONS[0] or ACTIONS.index(action) in seen_actions(judge, sight, asked, stop)
    return bool(felt and done)


def _windows(track: NDArray[np.float32], start: int, stop: int, length: int) -> NDArray[np.float32]:
    """[T, C] -> windows [N, C, length] of the frames [start, stop), `STRIDE` apart, the first at `start`, the last at its end."""
    every = np.lib.stride_tricks.sliding_window_view(track[start:stop], length, axis=0)
    chosen = sorted({*range(0, len(every), STRIDE), len(every) - 1})
    return np.ascontiguousarray(every[chosen])
