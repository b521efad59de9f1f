"""What can be wrong with sound."""

from __future__ import annotations


class VoiceError(ValueError):
    """Sound that cannot be used. `reason` is stable, the message says what was found and what is accepted.

    Reasons: AUDIO_UNREADABLE, AUDIO_NO_STREAM, AUDIO_EMPTY, AUDIO_ODD_BYTES, AUDIO_RATE_UNSUPPORTED,
    AUDIO_CHANNELS_UNSUPPORTED, AUDIO_ENCODING_UNSUPPORTED, AUDIO_NOT_FINITE, AUDIO_OUT_OF_RANGE.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
