"""A stage that makes data: shards of clips, drawn and encoded by processes of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from liveact_models.training.loop import Stage
from liveact_models.training.recipe import Recipe
from liveact_models.training.run_folder import RunFolder
from liveact_models.training.workers import Workers

AHEAD = 2
"""Shards whose clips are under way at a time: the processes work on the next while one is put together."""


class ShardStage(Stage):
    """Makes `steps` shards of `batch` clips, on every worker; shards that are there are kept."""

    def __init__(
        self,
        recipe: Recipe,
        run: RunFolder,
        device: torch.device,
        processes: int,
        begin: Callable[..., None] | None = None,
        *arguments: Any,
    ) -> None:
        """`begin(*arguments)` is called once in each of the processes."""
        super().__init__(recipe, run, device)
        self._pool = ProcessPoolExecutor(processes, get_context("spawn"), begin, arguments)
        self._ahead: dict[int, list[Future[Any]]] = {}

    @abstractmethod
    def shard_path(self, shard: int) -> Path:
        """The file whose presence says that the shard is made."""

    @abstractmethod
    def work(self, clip: int) -> tuple[Any, ...]:
        """The function that makes the clip of that number in a process, and its arguments."""

    @abstractmethod
    def save(self, shard: int, clips: list[Any]) -> float:
        """Write the shard of what `work` made; gives what is told as its loss."""

    def train_step(self, step: int, workers: Workers) -> dict[str, float]:
        shards = range(workers.rank, self.recipe.steps * workers.size, workers.size)
        for shard in shards[step : step + AHEAD]:
            self._order(shard)
        loss = 0.0
        if futures := self._ahead.pop(shards[step], None):
            loss = self.save(shards[step], [future.result() for future in futures])
        return {"loss": loss, "clips": float((step + 1) * self.recipe.batch * workers.size)}

    def finish(self) -> None:
        """The shards are written already."""

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def clips(self, shard: int) -> range:
        """The numbers of the shard's clips."""
        first = shard * self.recipe.batch
        return range(first, first + self.recipe.batch)

    def _order(self, shard: int) -> None:
        if shard not in self._ahead and not self.shard_path(shard).exists():
            self._ahead[shard] = [self._pool.submit(*self.work(clip)) for clip in self.clips(shard)]
