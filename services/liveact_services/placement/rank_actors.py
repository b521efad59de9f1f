"""The ranks of one replica: actors beside it in its placement group, called in one order, all at once or one alone.

The replica only coordinates. A rank that fails, dies or gives no answer in time makes the others useless, so the replica ends:
Serve then replaces it and its ranks together, and its sessions go on elsewhere.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.util.placement_group import PlacementGroup

log = logging.getLogger(__name__)

WATCH_S = 1.0
"""How often each rank is asked whether it lives."""


class RankFailed(RuntimeError):
    """A rank failed, died or gave no answer in time: the group is no more."""


@dataclass(frozen=True)
class Answer:
    """What a rank gave, or why it refuses, as it would have without the other ranks."""

    value: Any = None
    refusal: Exception | None = None
    began_ns: int = 0
    ended_ns: int = 0
    """When the rank was at it, in unix time."""


def rank_resources(
    ranks: int, num_cpus: float, num_gpus: float, node_labels: dict[str, str] | None = None
) -> dict[str, Any]:
    """Options of a deployment whose every replica has so many ranks, each with those resources, on one node.

    `node_labels`: only nodes that have them; none: any node.
    """
    rank = {"CPU": num_cpus, **({"GPU": num_gpus} if num_gpus else {})}
    # The first bundle is the replica's own.
    bundles = [{"CPU": num_cpus}, *[rank for _ in range(ranks)]]
    options: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": num_cpus},
        "placement_group_bundles": bundles,
        "placement_group_strategy": "STRICT_PACK",
    }
    if node_labels:
        # An actor in a group goes where its bundle lies: Ray asks for the nodes there, not of the actor.
        options["placement_group_bundle_label_selector"] = [dict(node_labels) for _ in bundles]
    return options


def own_placement_group() -> PlacementGroup:
    """The placement group of the replica that asks. Raises `RuntimeError` where there is none."""
    from ray.util.placement_group import get_current_placement_group

    group = get_current_placement_group()
    if group is None:
        raise RuntimeError("a replica of several ranks needs a placement group: see rank_resources")
    return group


class RankActors:
    """The ranks, by number. Its methods may be called from any thread; every rank sees the calls in the same order."""

    def __init__(
        self,
        makes: Sequence[Callable[[], Any]],
        group: PlacementGroup,
        timeout_s: float,
        refusals: tuple[type[Exception], ...] = (),
        end: Callable[[RankActors, str], None] | None = None,
    ) -> None:
        """Start one actor for each of `makes`, which makes in it what answers the calls; wait until all have.

        Args:
            makes: pickled to the actors, which stand in the group's bundles from 1 on and take all of them.
            timeout_s: how long a rank may take to answer a call.
            refusals: errors that leave a rank as it was. Raised by all ranks, they are raised here; anything else ends the group.
            end: what a failed group comes to: this process's end, unless said.

        Raises what a `make` raised.
        """
        self._timeout_s, self._end = timeout_s, end or end_replica
        self._order = threading.Lock()
        self._failure: str | None = None
        self._stopped = threading.Event()
        self._actors = [_actor(group, rank, refusals) for rank in range(len(makes))]
        self.pids: list[int] = []
        """The ranks' processes, on this machine."""
        try:
            self.pids = self._started(makes)
        except BaseException:
            self.stop()
            raise
        threading.Thread(target=self._watch, name="RankActors", daemon=True).start()

    def call(self, verb: str, *args: Any) -> list[Any]:
        """What every rank gives; raises the refusal that all give, or `RankFailed`."""
        return self.gather(verb, self.submit(verb, *args))

    def submit(self, verb: str, *args: Any, aside: bool = False) -> list[ObjectRef[Answer]]:
        """Send the call to every rank and wait for none. `aside`: it runs beside the rank's other calls, on another thread.

        A list of answers yet to come, as this method gives it, stands for each rank's own.
        """
        import ray

        # What is large crosses into the object store once.
        args = tuple(ray.put(arg) if isinstance(arg, bytes) else arg for arg in args)
        with self._order:
            return [
                actor.call.options(concurrency_group="aside" if aside else None).remote(
                    verb, *(arg[rank] if isinstance(arg, list) else arg for arg in args)
                )
                for rank, actor in enumerate(self._actors)
            ]

    def submit_to(self, rank: int, verb: str, *args: Any) -> ObjectRef[Answer]:
        """Send the call to one rank and wait for nothing. An answer yet to come stands for its value or refusal."""
        with self._order:
            return self._actors[rank].call.remote(verb, *args)

    def gather(self, what: str, calls: Sequence[ObjectRef[Answer]]) -> list[Any]:
        """What every rank gives to calls that were submitted; raises as `call` does."""
        return [answer.value for answer in self.answers(what, calls)]

    def answers(self, what: str, calls: Sequence[ObjectRef[Answer]]) -> list[Answer]:
        """The same with the time that each took; raises as `call` does."""
        answers: list[Answer] = self._wait(what, dict(enumerate(calls)))
        refusals = [answer.refusal for answer in answers if answer.refusal is not None]
        if not refusals:
            return answers
        if len(refusals) < len(answers) or len({type(refusal) for refusal in refusals}) > 1:
            self._fail(f"the ranks disagree at {what}: {refusals}")
        raise refusals[0]

    def answer(self, what: str, rank: int, call: ObjectRef[Answer]) -> Answer:
        """What one rank gives to a call that was sent to it alone; raises its refusal, or `RankFailed`."""
        (answer,) = self._wait(what, {rank: call})
        if answer.refusal is not None:
            raise answer.refusal
        return answer

    def stop(self) -> None:
        """End the ranks; the group is then no more."""
        import ray

        self._stopped.set()
        for actor in self._actors:
            with contextlib.suppress(Exception):
                ray.kill(actor)

    def _started(self, makes: Sequence[Callable[[], Any]]) -> list[int]:
        import ray

        starts = [actor.start.remote(make) for actor, make in zip(self._actors, makes, strict=True)]
        waiting = list(starts)
        while waiting:
            # The first that fails is told of; others may wait for it in vain.
            done, waiting = ray.wait(waiting, num_returns=1)
            ray.get(done)
        return ray.get(starts)

    def _wait(self, what: str, calls: Mapping[int, ObjectRef[Any]]) -> list[Any]:
        """What every call, by rank, gives within the timeout, in their order."""
        import ray

        deadline = time.monotonic() + self._timeout_s
        answers: dict[int, Any] = {}
        while missing := {call: rank for rank, call in calls.items() if rank not in answers}:
            done, _ = ray.wait(list(missing), num_returns=1, timeout=max(deadline - time.monotonic(), 0))
            if not done:
                self._fail(f"no answer to {what} in {self._timeout_s:g} s from ranks {sorted(missing.values())}")
            try:
                answers[missing[done[0]]] = ray.get(done[0])
            except Exception as error:
                first_line = str(error).strip().partition("\n")[0]
                self._fail(f"rank {missing[done[0]]} failed at {what}: {type(error).__name__}: {first_line}")
        return [answers[rank] for rank in calls]

    def _watch(self) -> None:
        """See ranks die, and processes stand still, while nothing is asked of them."""
        with contextlib.suppress(RankFailed):
            while not self._stopped.wait(WATCH_S):
                asked = [actor.alive.options(concurrency_group="watch").remote() for actor in self._actors]
                self._wait("are you there", dict(enumerate(asked)))

    def _fail(self, why: str) -> NoReturn:
        with self._order:
            first, self._failure = self._failure is None, self._failure or why
        if first and not self._stopped.is_set():
            self._end(self, why)
        raise RankFailed(self._failure)


def end_replica(ranks: RankActors, why: str) -> None:
    """End this process and its ranks, now: nothing of the group is worth waiting for."""
    log.critical("this replica ends: %s", why)
    for handler in (*log.handlers, *logging.getLogger("ray.serve").handlers):
        handler.flush()
    for pid in ranks.pids:
        # A rank that hangs in a collective, or stands still, would not hear anything softer.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    os._exit(1)


class _Process:
    """What runs in a rank's process."""

    def __init__(self, refusals: tuple[type[Exception], ...]) -> None:
        self._refusals = refusals
        self._rank: Any = None

    def start(self, make: Callable[[], Any]) -> int:
        self._rank = make()
        return os.getpid()

    def call(self, verb: str, *args: Any) -> Answer:
        for arg in args:
            if isinstance(arg, Answer) and arg.refusal is not None:
                return arg
        values = [arg.value if isinstance(arg, Answer) else arg for arg in args]
        began = time.time_ns()
        try:
            return Answer(getattr(self._rank, verb)(*values), None, began, time.time_ns())
        except self._refusals as refusal:
            return Answer(refusal=refusal)

    def alive(self) -> None:
        """Answers from a thread of its own, whatever the rank computes."""


def _actor(group: PlacementGroup, rank: int, refusals: tuple[type[Exception], ...]) -> Any:
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    bundle = 1 + rank
    resources = group.bundle_specs[bundle]
    # Of a class of its own, whose name Ray gives the process: who looks at the machine sees which rank is which.
    named = type(f"Rank{rank}", (_Process,), {})
    kind: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0, "concurrency_groups": {"aside": 1, "watch": 1}}
    process: Any = ray.remote(**kind)(named)
    return process.options(
        num_cpus=resources.get("CPU", 0), num_gpus=resources.get("GPU", 0),
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle),
    ).remote(refusals)  # fmt: skip
