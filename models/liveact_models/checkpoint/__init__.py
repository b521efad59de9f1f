"""Checkpoints: the released directory, our own layout, and no weights at all."""

from liveact_models.checkpoint.errors import CheckpointError
from liveact_models.checkpoint.layouts import Checkpoint, open_checkpoint
from liveact_models.checkpoint.saving import save_checkpoint

__all__ = ["Checkpoint", "CheckpointError", "open_checkpoint", "save_checkpoint"]
