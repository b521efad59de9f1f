"""`liveact bench e2e`: how many speaking clients a whole service carries in real time, and what each of them sees."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liveact_models.hardware import hardware
from liveact_services.cli import options, serve
from liveact_services.cli.bench.graph import clip
from liveact_services.cli.demo import EXAMPLES
from liveact_services.cli.exits import BadInput, CheckFailed
from liveact_services.cli.output import Output, note, reserved_stdout

if TYPE_CHECKING:
    from rich.table import Table

    from liveact_services.cli.bench.load.offer import Caller, Offer

OWN = ("sessions.max_utilisation=100",)
"""The service's own admission would stop where a device is full by its measure; here the blocks themselves say where that is."""
APART_S = 0.4
"""Between two clients' beginnings, so that they do not all want their blocks at once."""


@dataclass(frozen=True)
class Row:
    """So many clients at once."""

    callers: list[Caller]

    @property
    def in_time(self) -> float:
        """Share of the blocks of which every frame came before it was due."""
        from liveact_services.cli.bench.load.offer import in_time

        return in_time(self.callers) or 0.0

    @property
    def errors(self) -> list[str]:
        refused = [f"told to come back in {c.told_s:.1f} s" for c in self.callers if c.told_s is not None]
        return [caller.error for caller in self.callers if caller.error] + refused

    @property
    def carried(self) -> bool:
        from liveact_services.cli.bench.load.simulated import IN_TIME

        return not self.errors and self.in_time >= IN_TIME

    def to_dict(self) -> dict[str, Any]:
        first = sorted(c.first_frame_s for c in self.callers if c.first_frame_s is not None)
        return {
            "clients": len(self.callers), "carried": self.carried, "in_time": round(self.in_time, 5),
            "blocks": sum(len(caller.blocks) for caller in self.callers),
            "first_frame_s_median": round(statistics.median(first), 3) if first else None,
            "first_frame_s_worst": round(first[-1], 3) if first else None,
            "stalls": sum(caller.stalls for caller in self.callers),
            "longest_stall_s": round(max(caller.longest_stall_s for caller in self.callers), 3), "errors": self.errors,
        }  # fmt: skip


@dataclass(frozen=True)
class EndToEnd:
    """All rows, up to the first that was not carried."""

    rows: list[Row]
    size: tuple[int, int]
    seconds: float
    checkpoint: str

    @property
    def sessions(self) -> int:
        """The most that were carried."""
        return max((len(row.callers) for row in self.rows if row.carried), default=0)

    def to_dict(self) -> dict[str, Any]:
        return {
            "sessions_at_realtime": self.sessions, "rows": [row.to_dict() for row in self.rows], "size": list(self.size),
            "seconds": self.seconds, "checkpoint": self.checkpoint,
            "date": datetime.now(UTC).strftime("%Y-%m-%d"), "hardware": hardware(),
        }  # fmt: skip

    def table(self) -> Table:
        from rich.table import Table

        width, height = self.size
        title = f"{self.checkpoint} at {width}x{height}, {self.seconds:.0f} s of voice each; carried: {self.sessions}"
        table = Table(
            "clients", "blocks in time", "first frame, median", "worst", "stalls", "longest", title=title, title_justify="left"
        )  # fmt: skip
        for row in self.rows:
            said = row.to_dict()
            first = [said["first_frame_s_median"], said["first_frame_s_worst"]]
            table.add_row(
                str(said["clients"]), f"{row.in_time:.2%} of {said['blocks']}",
                *("-" if seconds is None else f"{seconds:.2f} s" for seconds in first),
                str(said["stalls"]), f"{said['longest_stall_s']:.2f} s",
            )  # fmt: skip
        return table


def e2e(
    size: options.Size = None,
    clients: Annotated[
        list[int] | None, typer.Option(help="Clients at once; may be said again. Default: 1, 2, 3, 4, 6, 8.", min=1)
    ] = None,
    seconds: Annotated[float, typer.Option(help="Voice of each client, at speaking pace.", min=5, max=600)] = 20.0,
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The service there, in place of an own.")
    ] = None,
    token: options.Token = None,
    preset: options.Preset = None,
    checkpoint: options.Checkpoint = None,
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """More and more clients that speak at once, through a service, until fewer than 99 % of the blocks come in time.

    From the first byte of a voice to its first frame, blocks in time at the viewer, and stalls of the picture. Exits with 1 when
    not even one client is carried.
    """
    if not EXAMPLES.is_dir():
        raise BadInput(f"{EXAMPLES} is not there: run this from a checkout of the repository")
    if address is not None and (settings or preset or checkpoint):
        raise BadInput("--set, --preset and --checkpoint are of a service of this command's own: not one at --address")
    counts = sorted(set(clients or (1, 2, 3, 4, 6, 8)))
    with reserved_stdout() as stdout:
        if address is not None:
            found = asyncio.run(_measure(address, token, counts, seconds, options.parse_size(size)))
        else:
            own = [*OWN, *(settings or [])]
            with serve.own_service(None, own, preset=preset, checkpoint=checkpoint) as service:
                found = asyncio.run(_measure(service.address, token, counts, seconds, options.parse_size(size)))
        output = Output(json, stdout=stdout)
        output.show(found.table())
        output.result(found.to_dict())
    if not found.sessions:
        why = next(
            (error for row in found.rows for error in row.errors), f"{found.rows[0].in_time:.1%} of blocks in time"
        )
        raise CheckFailed(f"{found.rows[0].to_dict()['clients']} clients were not carried: {why}")


async def _measure(
    address: str, token: str | None, counts: Sequence[int], seconds: float, size: tuple[int, int]
) -> EndToEnd:
    from liveact_services.cli.bench.load.offer import Offer
    from liveact_services.client import AvatarClient

    rows: list[Row] = []
    async with AvatarClient(address, token=token) as client:
        info = await client.server_info()
        width, height = size if any(size) else (info.default_width, info.default_height)
        offer = Offer((EXAMPLES / "portrait.jpg").read_bytes(), clip(seconds), width, height, token)
        for count in counts:
            note(f"{count} at once, for {seconds:.0f} s")
            rows.append(Row(await _at_once(client, offer, count)))
            if not rows[-1].carried:
                break
    return EndToEnd(rows, (width, height), seconds, info.checkpoint)


async def _at_once(client: Any, offer: Offer, count: int) -> list[Caller]:
    from liveact_services.cli.bench.load.offer import Caller

    callers = [Caller(seed, 1.0) for seed in range(count)]
    async with asyncio.TaskGroup() as tasks:
        for caller in callers:
            tasks.create_task(caller.attend(client, offer, returns=False))
            await asyncio.sleep(APART_S)
    return callers
