"""Blocks, latent frames and video frames on one clock (model-facts, "Time and shapes" and "Audio").

Block 0 has 6 latent frames, every later block 8; the first latent frame of a session is one video frame, every other four.
Frame numbers here are video frames of the session, from 0.
"""

from __future__ import annotations

FIRST_BLOCK_LATENTS = 6
BLOCK_LATENTS = 8
CONTEXT_SLOTS = 6
WINDOW_SLOTS = CONTEXT_SLOTS + BLOCK_LATENTS
FRAMES_PER_LATENT = 4
FIRST_BLOCK_FRAMES = 1 + (FIRST_BLOCK_LATENTS - 1) * FRAMES_PER_LATENT
BLOCK_FRAMES = BLOCK_LATENTS * FRAMES_PER_LATENT
WINDOW_FRAMES = 1 + (WINDOW_SLOTS - 1) * FRAMES_PER_LATENT
AUDIO_REACH = 2
"""Frames of sound on either side that a frame's audio window takes in."""
AUDIO_WINDOW_FRAMES = WINDOW_FRAMES + 2 * AUDIO_REACH
"""Frames of sound the audio encoder hears for one block, the same for every block."""


def block_latents(block: int) -> int:
    """Latent frames of the block: 6, then 8."""
    return FIRST_BLOCK_LATENTS if block == 0 else BLOCK_LATENTS


def block_slots(block: int) -> range:
    """The slots its latent frames take in the window of 14: 0-5, then 6-13."""
    return range(FIRST_BLOCK_LATENTS) if block == 0 else range(CONTEXT_SLOTS, WINDOW_SLOTS)


def block_frames(block: int) -> range:
    """Video frames of the block: [0, 21), then [21 + (k-1) * 32, 21 + k * 32)."""
    if block < 0:
        raise ValueError(f"block {block}: blocks count from 0")
    if block == 0:
        return range(FIRST_BLOCK_FRAMES)
    start = FIRST_BLOCK_FRAMES + (block - 1) * BLOCK_FRAMES
    return range(start, start + BLOCK_FRAMES)


def block_of_frame(frame: int) -> int:
    """The block that holds this video frame."""
    if frame < 0:
        raise ValueError(f"frame {frame}: frames count from 0")
    return 0 if frame < FIRST_BLOCK_FRAMES else 1 + (frame - FIRST_BLOCK_FRAMES) // BLOCK_FRAMES


def block_sound_frames(block: int) -> range:
    """The frames of sound that must exist before the block is denoised: its own and two beyond.

    Frames past the end of this range never change the block, so live input waits for no more.
    """
    heard = block_feature_frames(block)
    return range(max(0, heard.start), heard.stop)


def block_feature_frames(block: int) -> range:
    """The frames whose sound the block's audio windows take in: its own and two on either side, from -2 on."""
    frames = block_frames(block)
    return range(frames.start - AUDIO_REACH, frames.stop + AUDIO_REACH)


def audio_window_start(block: int) -> int:
    """First frame of the fixed window of `AUDIO_WINDOW_FRAMES` the audio encoder hears; negative before the session's start.

    The window of model-facts, [(k-1) * 32, (k-1) * 32 + 53), with two frames more on either side.
    """
    return -AUDIO_REACH if block == 0 else (block - 1) * BLOCK_FRAMES - AUDIO_REACH


def blocks_for_frames(frames: int) -> int:
    """How many blocks it takes to hold this many video frames."""
    return 0 if frames <= 0 else block_of_frame(frames - 1) + 1


def block_seconds(block: int, fps: float) -> float:
    """How long the block lasts when played, in seconds."""
    return len(block_frames(block)) / fps
