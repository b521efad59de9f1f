"""What a Conductor tells whoever listens: frames, the sound that belongs to them, and what happened."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from liveact_services.conductor.stages import VideoPart


class Happening(StrEnum):
    """Kinds of event (liveact.v1.EventType)."""

    READY = "ready"
    SPEECH_STARTED = "speech_started"
    SPEECH_ENDED = "speech_ended"
    INTERRUPTED = "interrupted"
    PROMPT_APPLIED = "prompt_applied"
    IDLE = "idle"
    UNDERRUN = "underrun"
    MIGRATED = "migrated"
    EXPIRING = "expiring"
    GOING_AWAY = "going_away"
    NOTICE = "notice"
    CLOSED = "closed"


@dataclass(frozen=True)
class Event:
    """Something happened at a media time (seconds from the session's first frame)."""

    kind: Happening
    at_s: float = 0.0
    utterance: str = ""
    block: int = 0
    played_s: float = 0.0
    discarded_s: float = 0.0
    stall_s: float = 0.0
    next_request: int = 0
    """Of INTERRUPTED: the number of the request after the one that asked for it."""
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class Sound:
    """The samples that belong to a block's frames, float32 [n] at the session's rate."""

    block: int
    at_s: float
    samples: np.ndarray
    next_request: int = 0
    """The client may forget its requests before this one: none of them is asked for again."""


@dataclass(frozen=True)
class Video:
    """Frames, each with the utterance spoken in it ("" when idle)."""

    part: VideoPart
    utterances: tuple[str, ...]


Output = Event | Sound | Video
