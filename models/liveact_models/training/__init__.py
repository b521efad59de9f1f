"""Training: a synthetic world in, a checkpoint out. Needs the extra `train`; knows torch.distributed and no Ray."""

from __future__ import annotations


class MissingExtra(ImportError):
    """A package that only training needs is not installed."""

    def __init__(self, package: str) -> None:
        super().__init__(f"{package} is missing: training needs pip install 'liveact-serve[train]'", name=package)

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str | None]]:
        # Comes back from pool processes, where the message would else be taken for the package.
        return type(self), (self.name,)


class TrainingError(RuntimeError):
    """Training that cannot begin or go on; the message names the stage, what was wrong and what helps."""
