"""Voices that speak English and know when each phoneme sounds: the ground truth of lip-sync. Needs the extra `train`."""

from __future__ import annotations

from liveact_models.world.voices.augment import augmented
from liveact_models.world.voices.speaking import speech, voice_named, voices
from liveact_models.world.voices.utterance import RATE, Utterance
from liveact_models.world.voices.voice import Voice

__all__ = ["RATE", "Utterance", "Voice", "augmented", "speech", "voice_named", "voices"]
