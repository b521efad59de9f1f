"""`liveact drain`: have sessions leave replicas that take no new ones, and say what they hold."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liveact_services.cli import options
from liveact_services.cli.exits import BadInput, CheckFailed, Unavailable
from liveact_services.cli.output import Output, note

if TYPE_CHECKING:
    from liveact_services.placement.draining import Replica

CONNECT_S = 3.0


def drain(
    replicas: Annotated[
        list[str] | None, typer.Argument(metavar="REPLICA...", help="Ids as this command lists them; none: only list.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every replica that holds sessions.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Have them take new sessions again.")] = False,
    let_go: Annotated[
        bool, typer.Option("--let-go", help="End each once it is empty; Serve starts another if the count asks for it.")
    ] = False,
    wait: Annotated[float, typer.Option(metavar="SECONDS", help="Wait so long for them to be empty.", min=0)] = 0.0,
    address: Annotated[str, typer.Option(help="The Ray cluster; auto: the one on this machine.")] = "auto",
    json: options.Json = False,
) -> None:
    """List the Denoisers and VaeDecoders of the running service, or drain some of them.

    The sessions of a draining replica move to others at their next block boundary, as soon as one has room; until then it goes on
    with them. Exits with 1 when --wait is over and some are left.
    """
    if replicas and every:
        raise BadInput("REPLICA and --all: accepted is one of them")
    if undo and (let_go or wait):
        raise BadInput("--undo goes with neither --let-go nor --wait")
    if (undo or let_go or wait) and not (replicas or every):
        raise BadInput("no replica is named: accepted are ids as `liveact drain` lists them, or --all")
    with connected(address):
        found = _find()
        chosen = found if every else _chosen(found, replicas or [])
        left = asyncio.run(_apply(chosen, undo, let_go, wait)) if chosen else {}
        rows = asyncio.run(_status(found))
    output = Output(json)
    output.show(_table(rows))
    output.result({"replicas": rows, "left": left})
    if wait and any(left.values()):
        raise CheckFailed(f"{sum(map(len, left.values()))} sessions are left after {wait:g} s")


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """This process, a driver of that Ray cluster. Raises `Unavailable`."""
    import logging

    import ray

    # Ray would look for a cluster that is not there for longer than anybody waits.
    host, separator, port = address.rpartition(":")
    if separator and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), CONNECT_S).close()
        except OSError as error:
            raise Unavailable(f"no Ray cluster at {address!r}: {error.strerror or error}") from None
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        raise Unavailable(f"no Ray cluster at {address!r}: {' '.join(str(error).split())}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _find() -> list[Replica]:
    from ray.serve.exceptions import RayServeException

    from liveact_services.placement.draining import running_replicas
    from liveact_services.service import APPLICATION

    try:
        found = running_replicas(APPLICATION)
    except RayServeException as error:
        raise Unavailable(f"Serve does not run on that cluster: {error}") from None
    if not found:
        raise Unavailable(f"the application {APPLICATION!r} does not run on that cluster")
    return found


def _chosen(found: list[Replica], wanted: list[str]) -> list[Replica]:
    known = {replica.id: replica for replica in found}
    if unknown := [replica for replica in wanted if replica not in known]:
        raise BadInput(f"replica {unknown[0]!r} does not run: accepted are {', '.join(known)}")
    return [known[replica] for replica in wanted]


async def _apply(chosen: list[Replica], undo: bool, let_go: bool, wait: float) -> dict[str, list[str]]:
    from liveact_services.placement.draining import drain as drained

    if undo:
        await asyncio.gather(*(replica.calls.drain(False, False) for replica in chosen))
        return {}
    return await drained(chosen, let_go=let_go, wait_s=wait, told=lambda replica, held: note(f"{replica} holds {held}"))


async def _status(found: list[Replica]) -> list[dict[str, Any]]:
    # One that is let go may end while it is asked.
    answers = await asyncio.gather(*(replica.calls.drain_status() for replica in found), return_exceptions=True)
    return [
        {"replica": replica.id, "deployment": replica.deployment, **answer}
        for replica, answer in zip(found, answers, strict=True)
        if isinstance(answer, dict)
    ]


def _table(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table("deployment", "replica", "sessions", "state")
    for row in rows:
        state = "serving" if not row["draining"] else "draining, then let go" if row["let_go"] else "draining"
        table.add_row(row["deployment"], row["replica"], f"{row['held']} of {row['capacity']}", state)
    return table
