"""More real sessions than a service can carry: who is admitted, whose blocks are in time, and whether times told are right."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from liveact_models.hardware import hardware
from liveact_services.cli.bench.load.offer import Caller, Offer, in_time
from liveact_services.cli.bench.load.simulated import IN_TIME, RIGHT
from liveact_services.cli.exits import CheckFailed
from liveact_services.cli.output import note
from liveact_services.client import AvatarClient

if TYPE_CHECKING:
    from rich.table import Table

SPREAD = 0.02
"""Of the sessions' lengths, in the logarithm: their lengths are known from history."""
LONGEST = 1.1
"""An offer's voice, in lengths of a session."""
FILL_EVERY_S = 0.5
"""From one client to the next while the capacity is looked for."""
FILL_LENGTHS = 4.0
"""How long that takes, in lengths of a session: until some have ended, so that the service knows how long they last."""
MOST_FILLING = 400


@dataclass(frozen=True)
class LiveRow:
    """What became of the clients that came during one row."""

    load: float
    callers: list[Caller]

    @property
    def admitted(self) -> list[Caller]:
        return [caller for caller in self.callers if caller.admitted is not None]

    @property
    def blocks(self) -> int:
        return sum(len(caller.blocks) for caller in self.callers)

    @property
    def in_time(self) -> float:
        """Share of the blocks of which every frame came before it was due."""
        share = in_time(self.callers)
        return 1.0 if share is None else share

    @property
    def came_back(self) -> list[Caller]:
        return [caller for caller in self.callers if caller.let_in_again is not None]

    @property
    def retry_right(self) -> float:
        back = self.came_back
        return sum(bool(caller.let_in_again) for caller in back) / len(back) if back else 1.0

    @property
    def failures(self) -> list[str]:
        found = [f"{self.load:g}x: {caller.error}" for caller in self.callers if caller.error]
        if not self.admitted:
            found.append(f"{self.load:g}x: nobody was admitted")
        if self.in_time < IN_TIME:
            found.append(f"{self.load:g}x: {self.in_time:.2%} of the blocks in time, at least {IN_TIME:.0%}")
        if self.retry_right < RIGHT:
            found.append(f"{self.load:g}x: {self.retry_right:.1%} of the times told were right, at least {RIGHT:.0%}")
        return found

    def to_dict(self) -> dict[str, Any]:
        refused = [caller for caller in self.callers if caller.told_s is not None]
        return {
            "load": self.load,
            "came": len(self.callers),
            "admitted_at_once": sum(caller.told_s is None for caller in self.admitted),
            "refused": len(refused),
            "told_s_median": round(statistics.median(caller.told_s or 0.0 for caller in refused), 2)
            if refused
            else None,
            "came_back": len(self.came_back),
            "retry_right": round(self.retry_right, 3),
            "blocks": self.blocks,
            "in_time": round(self.in_time, 5),
            "longest_stall_s": round(max((caller.longest_stall_s for caller in self.callers), default=0.0), 3),
            "frames": sum(caller.frames for caller in self.callers),
        }


@dataclass(frozen=True)
class LiveTable:
    """All rows of one run, and what they were measured against."""

    rows: list[LiveRow]
    capacity: int
    """Sessions that were held at once when clients came without end."""
    lasts_s: float
    """How long one was held, in mean."""
    seconds: float
    seed: int

    @property
    def failures(self) -> list[str]:
        return [failure for row in self.rows for failure in row.failures]

    def to_dict(self) -> dict[str, Any]:
        return {
            "passed": not self.failures,
            "capacity": self.capacity,
            "session_s": round(self.lasts_s, 2),
            "seconds": self.seconds,
            "seed": self.seed,
            "live": [row.to_dict() for row in self.rows],
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "hardware": hardware(),
        }

    def tables(self) -> list[Table]:
        from rich.table import Table

        title = (
            f"room for {self.capacity} sessions of {self.lasts_s:.1f} s, {self.seconds:.0f} s a row, seed {self.seed}"
        )
        table = Table(
            "offered", "came", "admitted at once", "refused", "blocks in time", "longest stall", "told times right",
            title=title, title_justify="left",
        )  # fmt: skip
        for row in self.rows:
            said = row.to_dict()
            table.add_row(
                f"{row.load:g}x", str(said["came"]), str(said["admitted_at_once"]), str(said["refused"]),
                f"{row.in_time:.2%} of {row.blocks}", f"{said['longest_stall_s']:.2f} s",
                f"{row.retry_right:.0%} of {said['came_back']}",
            )  # fmt: skip
        return [table]


class Crowd:
    """Clients that come at random moments, each with a session of its own length."""

    def __init__(self, client: AvatarClient, offer: Offer, seed: int) -> None:
        self._client, self._offer = client, offer
        self._random = random.Random(seed)
        self._count = 0

    async def fill(self, length_s: float) -> list[Caller]:
        """One client after the other, more than there can be room for; nobody comes back."""
        callers: list[Caller] = []
        until = time.perf_counter() + FILL_LENGTHS * length_s
        async with asyncio.TaskGroup() as tasks:
            while time.perf_counter() < until and len(callers) < MOST_FILLING:
                callers.append(self._next())
                tasks.create_task(callers[-1].attend(self._client, self._offer, returns=False))
                await asyncio.sleep(FILL_EVERY_S)
        return callers

    async def come(self, rate: float, warm_s: float, seconds: float) -> list[Caller]:
        """`rate` clients a second for so long; gives those that came after the warm-up, once all have gone."""
        callers: list[Caller] = []
        warm, until = time.perf_counter() + warm_s, time.perf_counter() + warm_s + seconds
        async with asyncio.TaskGroup() as tasks:
            due = time.perf_counter()
            while (due := due + self._random.expovariate(rate)) < until:
                await asyncio.sleep(due - time.perf_counter())
                caller = self._next()
                tasks.create_task(caller.attend(self._client, self._offer))
                if due >= warm:
                    callers.append(caller)
        return callers

    def _next(self) -> Caller:
        self._count += 1
        return Caller(self._count, self._random.lognormvariate(0.0, SPREAD) / LONGEST)


async def measure(address: str, offer: Offer, loads: Sequence[float], seconds: float, seed: int) -> LiveTable:
    """Look for the capacity, then offer so many times as much. `offer`'s voice is `LONGEST` lengths of a session.

    Raises `CheckFailed` where nothing can be measured.
    """
    length_s = offer.voice.seconds / LONGEST
    async with AvatarClient(address, token=offer.token) as client:
        crowd = Crowd(client, offer, seed)
        note(f"clients without end, for {FILL_LENGTHS * length_s:.0f} s: how many are admitted")
        filling = await crowd.fill(length_s)
        capacity, lasts_s = held_at_once(filling), _mean_length(filling)
        if not any(caller.told_s is not None for caller in filling):
            why = next((caller.error for caller in filling if caller.error), "there was room for all of them")
            raise CheckFailed(
                f"of {len(filling)} clients none was told to come back, so the capacity is not known: {why}; accepted are "
                "a longer --length, a lower sessions.max_sessions and a tenant whose quotas allow more"
            )
        note(f"room for {capacity} sessions, which last {lasts_s:.1f} s")
        rows = []
        for one in loads:
            note(f"{one:g} times that")
            rows.append(LiveRow(one, await crowd.come(one * capacity / lasts_s, lasts_s, seconds)))
    return LiveTable(rows, capacity, lasts_s, seconds, seed)


def held_at_once(callers: Sequence[Caller]) -> int:
    """The most sessions that were there at one moment."""
    spans = [(caller.admitted, caller.ended) for caller in callers]
    changes = sorted(
        [(began, 1) for began, ended in spans if began is not None and ended is not None]
        + [(ended, -1) for began, ended in spans if began is not None and ended is not None]
    )
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most


def _mean_length(callers: Sequence[Caller]) -> float:
    """Of those who stayed to the end. Raises `CheckFailed` where nobody did."""
    lengths = [c.ended - c.admitted for c in callers if c.ended is not None and c.admitted is not None and not c.error]
    if not lengths:
        why = next((caller.error for caller in callers if caller.error), "every one of them was refused")
        raise CheckFailed(f"of {len(callers)} clients none had a session: {why}")
    return statistics.mean(lengths)
