"""Whose diffusion step the device makes next. Pure logic: no Ray, no torch, and a clock that is handed in.

The rule, in full. Every waiting block is either *due* (REALTIME: it is to be shown at a moment) or *background* (FASTEST: nobody
waits for a moment). The device makes one step, then the rule is asked again:

1. A due block goes before a background one. Background is owed `background` of the device's time while it waits; once it is owed
   a step it gets that step, whatever is due.
2. Of the due blocks, as long as all of them can be in time (in the order of their deadlines, each with the steps it still
   needs at their measured time): the one that is due first.
3. Where they cannot, the device is overloaded. The blocks up to and including the last that would be late, in the order of
   their deadlines, are contested; the step goes to the contested tenant with the least virtual time, and of its contested
   blocks to the one that is due first. The blocks behind are in time either way and wait.
4. Of the background blocks: the tenant with the least virtual time; of its blocks one that was begun, before any other, since
   an unfinished block holds memory; then the session that was served longest ago.
5. Whoever, session or tenant, has had `hold_s` of the device in a row while another of the same class waited lets another go
   first for one step.

A tenant's virtual time is the device time it used divided by its weight, one account for due blocks and one for background.
It is remembered for `hold_s` of device time in either direction: a tenant that was away comes back with no more credit, and
one that used what nobody else wanted owes no more, than that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Rules:
    """What of the rule can be set."""

    hold_s: float = 2.0
    """Seconds of device time one session or tenant may have in a row while others wait."""
    background: float = 0.1
    """Share of the device that background blocks are owed while due ones wait."""


@dataclass(eq=False)
class Block:
    """A block at the device."""

    session: str
    tenant: str
    weight: float
    due: float | None
    """When it is to be finished, on the scheduler's clock; None: background."""
    steps: int
    """Diffusion steps it still needs."""
    step_s: float
    """What each is expected to take."""
    begun: bool = False
    number: int = field(default=0, repr=False)
    """Counts the blocks in the order they came."""

    @property
    def needs_s(self) -> float:
        """Device time it still needs."""
        return self.steps * self.step_s


class Scheduler:
    """The blocks that wait, and the rule above."""

    def __init__(self, rules: Rules | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self.rules = rules or Rules()
        self._now = now
        self._waiting: list[Block] = []
        self._came = 0
        self._due, self._background = _Class(self.rules.hold_s), _Class(self.rules.hold_s)
        self._owed_s = 0.0
        """Device time that background is owed."""
        self._served: dict[str, int] = {}
        """The turn in which a session of the background was last served."""
        self._turns = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, block: Block) -> None:
        """A block waits from now on."""
        self._came += 1
        block.number = self._came
        self._class_of(block).shares.join(block.tenant, block.weight)
        self._waiting.append(block)

    def leave(self, block: Block) -> None:
        """A block waits no more: it is finished, failed or given up. Leaving twice is no error."""
        if block not in self._waiting:
            return
        self._waiting.remove(block)
        if not any(b.tenant == block.tenant for b in self._beside(block)):
            self._class_of(block).shares.part(block.tenant)
        if block.due is None and not any(b.due is None for b in self._waiting):
            # What was owed to nobody is not saved up.
            self._owed_s = 0.0
            self._served.clear()

    def next(self) -> Block | None:
        """The block whose step is to be made now; None when none waits."""
        due = [b for b in self._waiting if b.due is not None]
        background = [b for b in self._waiting if b.due is None]
        if background and (not due or self._owed_s >= max(1e-9, min(b.step_s for b in background))):
            return self._in_background(self._background.without_holders(background, self.rules.hold_s))
        return self._by_deadline(self._due.without_holders(due, self.rules.hold_s)) if due else None

    def ran(self, block: Block, seconds: float) -> None:
        """One step of the block that `next` gave took so long."""
        self._turns += 1
        block.begun, block.steps = True, max(0, block.steps - 1)
        self._class_of(block).had(block, seconds, self._beside(block))
        if block.due is None:
            self._served[block.session] = self._turns
            if any(b.due is not None for b in self._waiting):
                self._owed_s -= seconds
        elif any(b.due is None for b in self._waiting):
            share = self.rules.background
            self._owed_s += seconds * share / (1.0 - share)

    def _by_deadline(self, blocks: list[Block]) -> Block:
        ordered = sorted(blocks, key=_due)
        contested = ordered[: self._last_late(ordered) + 1]
        if not contested:
            return ordered[0]
        tenant = self._due.shares.first(b.tenant for b in contested)
        return next(b for b in contested if b.tenant == tenant)

    def _last_late(self, ordered: list[Block]) -> int:
        """Position of the last block that would be late if they were made in this order; -1 for none."""
        last, finished = -1, self._now()
        for position, block in enumerate(ordered):
            finished += block.needs_s
            if finished > _due(block)[0]:
                last = position
        return last

    def _in_background(self, blocks: list[Block]) -> Block:
        tenant = self._background.shares.first(b.tenant for b in blocks)
        mine = [b for b in blocks if b.tenant == tenant]
        return min(mine, key=lambda b: (not b.begun, self._served.get(b.session, 0), b.number))

    def _beside(self, block: Block) -> list[Block]:
        """The blocks of its class that wait, itself among them."""
        return [b for b in self._waiting if (b.due is None) == (block.due is None)]

    def _class_of(self, block: Block) -> _Class:
        return self._background if block.due is None else self._due


class _Class:
    """What is remembered of the due blocks, or of the background's."""

    def __init__(self, hold_s: float) -> None:
        self.shares = Shares(hold_s)
        self._tenant, self._session = Hold(), Hold()

    def had(self, block: Block, seconds: float, beside: list[Block]) -> None:
        """The block had a step, these waiting."""
        self.shares.charge(block.tenant, block.weight, seconds)
        self._tenant.had(block.tenant, seconds, contested=any(b.tenant != block.tenant for b in beside))
        self._session.had(block.session, seconds, contested=any(b.session != block.session for b in beside))

    def without_holders(self, blocks: list[Block], hold_s: float) -> list[Block]:
        """The blocks but for those of a tenant, or a session, that has held the device so long; all where nobody else is."""
        tenant, session = self._tenant.longer_than(hold_s), self._session.longer_than(hold_s)
        blocks = [b for b in blocks if b.tenant != tenant] or blocks
        return [b for b in blocks if b.session != session] or blocks


class Shares:
    """Virtual time by tenant: device seconds used, divided by weight (start-time fair queueing, with bounded memory)."""

    def __init__(self, lag_s: float) -> None:
        self._lag_s = lag_s
        self._weights: dict[str, float] = {}
        self._used: dict[str, float] = {}
        """Virtual time of the tenants that are remembered."""
        self._waiting: set[str] = set()
        self._front = 0.0
        """The least virtual time of those who wait; it never goes back."""

    def join(self, tenant: str, weight: float) -> None:
        """The tenant has a block waiting; its weight is the latest told."""
        self._weights[tenant] = weight
        if tenant not in self._waiting:
            lag = self._lag_s / weight
            self._used[tenant] = min(max(self._used.get(tenant, 0.0), self._front - lag), self._front + lag)
            self._waiting.add(tenant)

    def part(self, tenant: str) -> None:
        """The tenant has none waiting."""
        self._waiting.discard(tenant)
        self._advance()
        # Whoever is this far behind would come back at the same place if it were forgotten.
        for name in [t for t in self._used if t not in self._waiting]:
            if self._used[name] <= self._front - self._lag_s / self._weights[name]:
                del self._used[name], self._weights[name]

    def charge(self, tenant: str, weight: float, seconds: float) -> None:
        """The tenant used the device."""
        self._weights[tenant] = weight
        # A step longer than the memory must count as what it is.
        lag = max(self._lag_s, 2 * seconds)
        used = self._used.get(tenant, self._front) + seconds / weight
        self._used[tenant] = used
        self._advance()
        self._used[tenant] = min(used, self._front + lag / weight)

    def first(self, tenants: Iterable[str]) -> str:
        """The one with the least virtual time; the first named of several."""
        return min(tenants, key=lambda tenant: self._used[tenant])

    def _advance(self) -> None:
        if self._waiting:
            self._front = max(self._front, min(self._used[t] for t in self._waiting))


class Hold:
    """Who has had the device in a row while somebody else waited, and for how long."""

    def __init__(self) -> None:
        self._who, self._seconds = "", 0.0

    def had(self, who: str, seconds: float, *, contested: bool) -> None:
        before = self._seconds if who == self._who else 0.0
        self._who, self._seconds = who, before + seconds if contested else 0.0

    def longer_than(self, seconds: float) -> str | None:
        return self._who if self._seconds >= seconds else None


def _due(block: Block) -> tuple[float, int]:
    assert block.due is not None
    return block.due, block.number
