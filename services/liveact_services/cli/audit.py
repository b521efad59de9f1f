"""`liveact audit`: who had which portrait speak, and whether the trail that says so is whole."""

from __future__ import annotations

import asyncio
import datetime
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liveact_services.cli import options
from liveact_services.cli.drain import connected
from liveact_services.cli.exits import CheckFailed, Unavailable
from liveact_services.cli.output import Output

if TYPE_CHECKING:
    from liveact_services.config import ServiceConfig


def audit(
    tenant: Annotated[str | None, typer.Option(metavar="TENANT", help="Of this tenant only.")] = None,
    session: Annotated[
        str | None, typer.Option(metavar="ID", help="Of this session, or those whose id begins so.")
    ] = None,
    since: Annotated[
        str, typer.Option(metavar="WHEN", help="90m, 2h or 7d, or a time as 2026-11-23T14:00:00Z.")
    ] = "7d",
    address: Annotated[
        str, typer.Option(help="The Ray cluster to ask where no redis_url is configured; auto: the one here.")
    ] = "auto",
    redis_url: Annotated[str | None, typer.Option(envvar="LIVEACT_REDIS_URL", help="The service's Redis.")] = None,
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """List the audit trail: sessions and avatars, by whom, of which portrait, and how they ended.

    Read from the configured Redis, or through the service that runs here. Exits with 1 when a tenant's chain of events does not
    hold.
    """
    from liveact_services.audit.reading import moment

    start = moment(since, time.time())
    chosen = options.effective_config(config, settings, redis_url=redis_url)
    if chosen.redis_url is not None:
        trails = asyncio.run(_from_redis(chosen, tenant, start))
    else:
        with connected(address):
            trails = asyncio.run(_from_service(tenant, start))
    wanted = (session or "").removeprefix("sessions/")
    events = [e for trail in trails for e in trail["events"] if e.get("session", "").startswith(wanted)]
    events.sort(key=lambda event: event["time"])
    wrong = {trail["tenant"]: trail["faults"] for trail in trails if trail["faults"]}
    output = Output(json)
    output.show(_table(events))
    for name, faults in wrong.items():
        output.show(*(f"tenant {name or '(unknown)'}: {fault}" for fault in faults))
    output.result({"events": events, "faults": wrong})
    if wrong:
        raise CheckFailed(f"the chain of events does not hold for {', '.join(name or '(unknown)' for name in wrong)}")


async def _from_redis(config: ServiceConfig, tenant: str | None, since: float) -> list[dict[str, Any]]:
    from liveact_services.audit.reading import read_trails
    from liveact_services.audit.store import AuditStore
    from liveact_services.sessions import Database

    assert config.redis_url is not None
    database = Database.connect(config.redis_url, timeout_s=30.0)
    try:
        return await read_trails(AuditStore(database, config.audit), tenant, since)
    finally:
        await database.aclose()


async def _from_service(tenant: str | None, since: float) -> list[dict[str, Any]]:
    from ray import serve
    from ray.serve.exceptions import RayServeException

    from liveact_services.service import APPLICATION

    try:
        return await serve.get_deployment_handle("Gateway", APPLICATION).read_audit.remote(tenant, since)
    except RayServeException as error:
        raise Unavailable(f"the service does not run on that cluster: {error}") from None


def _table(events: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table("time (UTC)", "tenant", "what", "session or avatar", "by", "portrait", "more")
    for event in events:
        at = datetime.datetime.fromtimestamp(event["time"], datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
        by = " ".join(filter(None, (event.get("key") or event.get("subject"), event.get("peer"))))
        told = ("reason", "detail", "consent", "watermark", "frames", "seconds", "stall_s", "count")
        more = ", ".join(f"{name} {event[name]}" for name in told if name in event)
        about = event.get("session") or event.get("avatar", "")
        table.add_row(at, event["tenant"], event["action"], about, by, event.get("portrait_sha256", "")[:12], more)
    return table
