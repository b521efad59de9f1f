"""Sessions that stream while parts of the service are struck, one after the other."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from liveact_services.cli.bench.chaos.forwarder import Forwarder
from liveact_services.cli.bench.chaos.outcome import Blow, Outcome
from liveact_services.cli.bench.chaos.victims import CUT, HUNG, KINDS, Striker, Wanted
from liveact_services.cli.bench.chaos.viewers import Audience, Play, undisturbed

Order = Literal["shuffled", "turn"]
REPAIR_S = 240.0
"""How long the service may take to be whole again after a blow."""
LOOK_S = 0.5
PAUSE = (0.5, 1.5)
"""Pauses are drawn between these times `every_s`: a blow meets blocks, exports and resumes at any moment."""


class NotRepaired(Exception):
    """What was struck did not come back; the message says what is missing."""


@dataclass(frozen=True)
class Storm:
    """What is struck, how often, and who looks on."""

    kills: int
    every_s: float
    kinds: Sequence[str] = KINDS
    order: Order = "shuffled"
    overlap: bool = False
    """Strike also while something that was struck before is still missing."""
    sessions: int = 4
    seed: int = 0

    def targets(self, draw: random.Random) -> Iterator[str]:
        """The kinds, each as often as the others."""
        while True:
            yield from self.kinds if self.order == "turn" else draw.sample(list(self.kinds), len(self.kinds))


def nobody(done: int, what: str) -> None:
    """Hears of every blow: how many there were, and what was done."""


async def disturb(wanted: Wanted, storm: Storm, play: Play, told: Callable[[int, str], None] = nobody) -> Outcome:
    """Let sessions follow one another at speaking pace, strike, and give what was seen; also when this is cancelled.

    First every seed's session is made undisturbed. A blow waits until what was struck before is back, all of it unless
    `overlap`, and of its own kind in any case. Raises `ClientError` before the first blow.
    """
    from liveact_services.client import AvatarClient

    draw = random.Random(storm.seed)
    blows: list[Blow] = []
    async with AvatarClient(wanted.address) as client:
        reels = {seed: await undisturbed(client, play, seed) for seed in range(storm.seed, storm.seed + storm.sessions)}
    async with Forwarder(wanted.address) as forwarder, AvatarClient(forwarder.address) as client:
        audience, striker = Audience(client, play, reels, storm.sessions), Striker(forwarder, draw)
        began, interrupted, broken = time.perf_counter(), False, ""
        watching = asyncio.create_task(audience.watch())
        striking = asyncio.create_task(_strike(wanted, storm, striker, draw, blows, told))
        try:
            await asyncio.wait({watching, striking}, return_when=asyncio.FIRST_COMPLETED)
            audience.leave_after_this()
            await asyncio.gather(watching, striking)
        except asyncio.CancelledError:
            interrupted = True
        except NotRepaired as error:
            broken = str(error)
        finally:
            watching.cancel()
            striking.cancel()
            await asyncio.gather(watching, striking, return_exceptions=True)
            await striker.release()
    ended = time.perf_counter()
    # Who was still looking on when it was interrupted has not lost anything.
    return Outcome(audience.viewers, blows, began, ended, audience.refused, interrupted, broken)


async def _strike(
    wanted: Wanted,
    storm: Storm,
    striker: Striker,
    draw: random.Random,
    blows: list[Blow],
    told: Callable[[int, str], None],
) -> None:
    targets = storm.targets(draw)
    while len(blows) < storm.kills:
        kind = next(targets)
        await asyncio.sleep(draw.uniform(*PAUSE) * storm.every_s)
        await _whole(wanted, HUNG.get(kind, kind) if storm.overlap else None)
        at = time.perf_counter()
        what = await striker.strike(kind)
        if not what and kind != CUT:
            raise NotRepaired(f"{kind}: this service has none")
        if what:
            blows.append(Blow(kind, at))
            told(len(blows), what)
    await _whole(wanted, None)


async def _whole(wanted: Wanted, kind: str | None) -> None:
    """Wait until nothing is missing, or nothing of that kind."""
    deadline = time.perf_counter() + REPAIR_S
    while missing := [one for one in await wanted.missing() if kind in (None, one)]:
        if time.perf_counter() > deadline:
            raise NotRepaired(f"{', '.join(missing)}: not back {REPAIR_S:.0f} s after it was struck")
        await asyncio.sleep(LOOK_S)
