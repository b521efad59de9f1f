"""What can go wrong between a hub, a disk and a folder of weights."""

from __future__ import annotations


class WeightsError(RuntimeError):
    """Something of the request or of this machine has to change. `reason` is stable; the message names it and the way out.

    Reasons: RELEASE_UNKNOWN, HUB_REFUSED, HUB_NOT_FOUND, HUB_LAYOUT, DISK_FULL, MANIFEST_UNREADABLE, ALREADY_FP8,
    CALIBRATION_UNREADABLE, TARGET_IN_USE; of `HubUnavailable`: HUB_OFFLINE, HUB_FAILED, HASH_MISMATCH.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class HubUnavailable(WeightsError):
    """The hub cannot be reached, or did not give what it announced: to be tried again."""
