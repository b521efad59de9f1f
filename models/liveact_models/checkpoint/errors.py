"""What can be wrong with a checkpoint."""

from __future__ import annotations

AGAIN = "copy or download the file again"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be loaded. `reason` is stable; the message names file, tensor, shapes and the fix.

    Reasons: CHECKPOINT_NOT_FOUND, CHECKPOINT_LAYOUT_UNKNOWN, FILE_UNREADABLE, FILE_TRUNCATED, TENSOR_MISSING,
    TENSOR_EXTRA, TENSOR_SHAPE.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
