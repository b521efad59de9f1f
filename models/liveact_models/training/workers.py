"""The processes that train together: what each computes, and how their gradients become one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from liveact_models.training import TrainingError


class Workers:
    """This process among those that train together; alone, nothing is communicated.

    Every method is called by all workers in the same order: it waits for the others.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | str = "cpu") -> None:
        self.rank = rank
        self.size = size
        self.device = torch.device(device)
        """Where tensors that are sent must lie: NCCL knows only its own device."""

    @classmethod
    def current(cls, device: torch.device | str = "cpu") -> Workers:
        """The group of torch.distributed where that is initialised, else this process alone."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), device)
        return cls(device=device)

    def samples(self, batch: int) -> range:
        """This worker's share of a step's samples 0 .. batch - 1.

        Draw each sample by (seed, step, sample): the step is then the same with any number of workers.
        Raises `TrainingError` for a batch that does not split evenly: its mean would weigh samples unequally.
        """
        if batch % self.size:
            raise TrainingError(f"batch {batch} does not split into {self.size} equal parts, one a worker")
        share = batch // self.size
        return range(self.rank * share, (self.rank + 1) * share)

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by its mean over the workers; one that no worker has stays None."""
        if self.size == 1:
            return
        parameters = list(parameters)
        device = parameters[0].device
        # A worker whose samples did not reach a parameter counts with a gradient of zero, and the tail says whether any did.
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        present = torch.tensor([0.0 if p.grad is None else 1.0 for p in parameters], device=device)
        flat = torch.cat([*(part.reshape(-1).float() for part in parts), present])
        dist.all_reduce(flat)
        flat[: -len(parameters)] /= self.size
        reached = flat[-len(parameters) :].tolist()
        pieces = flat[: -len(parameters)].split([p.numel() for p in parameters])
        for parameter, piece, count in zip(parameters, pieces, reached, strict=True):
            parameter.grad = piece.view_as(parameter).to(parameter.dtype, copy=True) if count else None

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """The mean of each value over the workers; all give the same names."""
        if self.size == 1:
            return dict(values)
        sums = torch.tensor([values[name] for name in sorted(values)], dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return dict(zip(sorted(values), (sums / self.size).tolist(), strict=True))

    def highest(self, value: int) -> int:
        """The greatest of the workers' values: how one worker's wish becomes everybody's."""
        if self.size == 1:
            return value
        agreed = torch.tensor(value, device=self.device)
        dist.all_reduce(agreed, dist.ReduceOp.MAX)
        return int(agreed)

    def share(self, modules: Mapping[str, nn.Module]) -> None:
        """Give every worker the parameters and buffers of rank 0."""
        if self.size == 1:
            return
        for name in sorted(modules):
            for tensor in modules[name].state_dict().values():
                dist.broadcast(tensor, src=0)

    def barrier(self) -> None:
        """Wait until every worker is here."""
        self.highest(0)
