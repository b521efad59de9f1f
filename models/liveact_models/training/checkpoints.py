"""The checkpoints of one stage: written whole or not at all, two kept, a damaged one passed over."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from pathlib import Path
from typing import Any

import torch

from liveact_models.training import TrainingError

KEPT = 2
_log = logging.getLogger(__name__)
_NAME = re.compile(r"(\d{8})-([0-9a-f]{16})\.pt")


class CheckpointWriteError(TrainingError):
    """A checkpoint that could not be written; the one before it stands."""


class Checkpoints:
    """Files `<step>-<digest of the content>.pt` of `torch.save` in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def steps(self) -> list[int]:
        """The steps there are checkpoints of, newest first."""
        return [step for step, _ in self._files()]

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write the state after `step` steps, then remove all but the two newest.

        Raises `CheckpointWriteError`, a full disk for example; what was there stays as it was.
        """
        try:
            path = self._write(step, state)
        except (OSError, RuntimeError) as error:  # torch's writer turns an OSError into a RuntimeError
            reason = getattr(error.__cause__ or error.__context__ or error, "strerror", None) or str(error)
            kept = f"that of step {self.steps()[0]} stands" if self.steps() else "there is none yet"
            raise CheckpointWriteError(
                f"{self.folder}: the checkpoint of step {step} could not be written ({reason}); {kept}"
            ) from error
        for _, old in self._files()[KEPT:]:
            old.unlink(missing_ok=True)
        return path

    def _write(self, step: int, state: dict[str, Any]) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self.folder / f".{step:08}.tmp"
        try:
            with fresh.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            return fresh.replace(self.folder / f"{step:08}-{_digest(fresh)}.pt")
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """The step and state of the newest checkpoint that is whole, on the CPU; None where there is none."""
        for step, path in self._files():
            if _digest(path) == path.stem.partition("-")[2]:
                return step, torch.load(path, map_location="cpu", weights_only=True)
            _log.warning("%s is damaged and passed over", path)
        return None

    def clear(self) -> None:
        """Remove every checkpoint."""
        for _, path in self._files():
            path.unlink()

    def _files(self) -> list[tuple[int, Path]]:
        matches = [(match, path) for path in self.folder.glob("*.pt") if (match := _NAME.fullmatch(path.name))]
        return sorted(((int(match[1]), path) for match, path in matches), reverse=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
