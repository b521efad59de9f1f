"""The process group under the ranks: NCCL between CUDA devices, gloo between CPUs, and the one exchange asked of either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

HOST = "127.0.0.1"
"""The ranks of a replica are on one machine: their keys and values go between its devices three times a second and layer."""


@dataclass(frozen=True)
class Peers:
    """This process among the ranks."""

    rank: int
    ranks: int
    process_group: dist.ProcessGroup

    def exchange(self, parts: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """Bytes to every rank, its own included, and what every rank sent here; all ranks call it together.

        `parts[i]`, uint8 [n], goes to rank i; `sizes[i]` are the bytes that come from it. Raises torch's `DistBackendError` or
        `RuntimeError` when a rank has gone, or is not there within the group's timeout.
        """
        sent = torch.cat(list(parts))
        received = sent.new_empty(sum(sizes))
        dist.all_to_all_single(
            received, sent, list(sizes), [len(part) for part in parts], group=self.process_group
        )  # fmt: skip
        return list(received.split(list(sizes)))


def host_store(timeout_s: float) -> dist.TCPStore:
    """Where ranks of this machine find each other, at a free `port`: for as long as the process lives that made it."""
    return dist.TCPStore(HOST, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=timeout_s))


def join_group(rank: int, ranks: int, port: int, device: torch.device, timeout_s: float) -> Peers:
    """Meet the other ranks at the store of that port. One group a process.

    No exchange, and not the meeting either, waits longer than `timeout_s` for another rank. Raises `RuntimeError` where one does
    not come.
    """
    timeout = timedelta(seconds=timeout_s)
    store = dist.TCPStore(HOST, port, is_master=False, timeout=timeout)
    cuda = device.type == "cuda"
    dist.init_process_group(
        "nccl" if cuda else "gloo", store=store, rank=rank, world_size=ranks, timeout=timeout,
        device_id=torch.device("cuda", torch.cuda.current_device()) if cuda else None,
    )  # fmt: skip
    world = dist.group.WORLD
    assert world is not None
    return Peers(rank, ranks, world)
