"""Training: a synthetic world in, a checkpoint out. Needs the extra `train`; knows torch.distributed and no Ray."""

from __future__ import annotations


class MissingExtra(ImportError):
    """A package that only training needs is not installed."""

    def __init__(self, package: str) -> None:
        super().__init__(f"{package} is missing: training needs pip install 'liveact-serve[train]'", name=package)


class TrainingError(RuntimeError):
    """Training that cannot begin or go on; the message names the stage, what was wrong and what helps."""
