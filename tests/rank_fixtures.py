"""Ranks of a model in processes of their own, with gloo between them, that make what a test asks of all of them together."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import torch

from liveact_models.parallel import host_store, join_group

TIMEOUT_S = 60.0
# The server imports torch once; each rank is a fork of it, before it has computed anything.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "liveact_models.parity.dit", "liveact_models.parallel"])


class Ranks:
    """So many rank processes; `run` has every one of them call the function with its `Peers` first."""

    def __init__(self, ranks: int, timeout_s: float = TIMEOUT_S) -> None:
        self._store = host_store(timeout_s)
        pipes = [CONTEXT.Pipe() for _ in range(ranks)]
        self._pipes = [ours for ours, _ in pipes]
        self.processes = [
            CONTEXT.Process(target=_rank, args=(rank, ranks, self._store.port, timeout_s, theirs), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process in self.processes:
            process.start()
        for _, theirs in pipes:
            theirs.close()

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """What the function gives on every rank; raises what it raised on the first that failed."""
        for pipe in self._pipes:
            pipe.send((function, args))
        answers = [self._answer(pipe) for pipe in self._pipes]
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers

    def _answer(self, pipe: Connection) -> Any:
        try:
            return pipe.recv() if pipe.poll(2 * TIMEOUT_S) else TimeoutError("a rank says nothing")
        except EOFError:
            return RuntimeError("a rank has died")

    def __enter__(self) -> Ranks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe, process in zip(self._pipes, self.processes, strict=True):
            pipe.close()
            process.join(5)
            if process.is_alive():
                process.kill()


def _rank(rank: int, ranks: int, port: int, timeout_s: float, pipe: Connection) -> None:
    torch.set_num_threads(1)
    peers = join_group(rank, ranks, port, torch.device("cpu"), timeout_s)
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            answer = function(peers, *args)
        except Exception as error:
            answer = error
        pipe.send(answer)
