"""`liveact tenants`: keys for the directory, and whether a directory is right."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liveact_services.cli import options
from liveact_services.cli.exits import BadInput
from liveact_services.cli.output import Output, note

if TYPE_CHECKING:
    from liveact_services.tenants import Tenant, TenantDirectory

app = typer.Typer(help="Tenants: their keys and their directory.", no_args_is_help=True)


@app.command("new-key")
def new_key(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whose key it will be: the tenant's id.")],
    json: options.Json = False,
) -> None:
    """Make an API key: print it, this once, and the line that admits it."""
    from pydantic import TypeAdapter, ValidationError

    from liveact_services.tenants.api_key import new_api_key
    from liveact_services.tenants.tenant import Slug

    try:
        TypeAdapter(Slug).validate_python(tenant)
    except ValidationError:
        raise BadInput(f"{tenant!r}: accepted are 1 to 63 lower-case letters, digits and hyphens") from None
    made = new_api_key()
    output = Output(json)
    output.show(made.text)
    note(f"the key is shown this once; add the next line to `keys` of tenant {tenant}")
    output.show(made.stored.yaml())
    output.result({"tenant": tenant, "id": made.stored.id, "key": made.text, "yaml": made.stored.yaml()})


@app.command()
def check(
    place: Annotated[
        str, typer.Argument(metavar="FILE", help="The directory: a YAML file, a folder of them, or env:NAME.")
    ],
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """Say what is wrong with a directory of tenants, or who is in it; no key is shown. The pools are the configuration's."""
    from rich.table import Table

    from liveact_services.tenants import TenantDirectory
    from liveact_services.tenants.source import DirectorySource

    pools = options.effective_config(config, settings).pools
    directory = TenantDirectory.parse(DirectorySource(place).read(), pools)
    _check_key_files(directory)
    tenants = [_summary(tenant, directory) for tenant in directory.tenants.values()]
    table = Table("tenant", "name", "weight", "pool", "quotas", "portraits", "keys")
    for row in tenants:
        quotas = ", ".join(f"{name} {value:g}" for name, value in row["quotas"].items()) or "none"
        keys = ", ".join(f"{count} {state}" for state, count in row["keys"].items() if count) or "none"
        name = f"{row['name']} (disabled)" if row["disabled"] else row["name"]
        portraits = f"{row['rules']['portraits']}, consent {row['rules']['consent']}"
        table.add_row(row["id"], name, f"{row['weight']:g}", row["pool"], quotas, portraits, keys)
    output = Output(json)
    output.show(table, *(f"tokens of {issuer.issuer}, keys in {issuer.jwks}" for issuer in directory.issuers.values()))
    output.result({"tenants": tenants, "issuers": list(directory.issuers)})


def _summary(tenant: Tenant, directory: TenantDirectory) -> dict[str, Any]:
    now = time.time()
    states = {"valid": 0, "expired": 0, "revoked": 0}
    for key, owner in directory.keys.values():
        if owner == tenant.id:
            states["revoked" if key.revoked else "expired" if key.expired(now) else "valid"] += 1
    return {
        "id": tenant.id, "name": tenant.name, "disabled": tenant.disabled, "weight": tenant.weight, "pool": tenant.pool,
        "rules": {"portraits": tenant.portraits, "consent": tenant.consent,
                  "visible_watermark": tenant.visible_watermark, "invisible_watermark": tenant.invisible_watermark},
        "quotas": tenant.quotas.model_dump(exclude_none=True), "keys": states,
    }  # fmt: skip


def _check_key_files(directory: TenantDirectory) -> None:
    """Raises `BadInput` for an issuer's file that holds no usable keys; URLs are not fetched."""
    from liveact_services.tenants.key_set import KeySetError, parse_key_set, read_source

    for issuer in directory.issuers.values():
        if not issuer.remote:
            try:
                parse_key_set(read_source(issuer.jwks), str(Path(issuer.jwks)))
            except KeySetError as error:
                raise BadInput(f"issuer {issuer.issuer}: {error}") from None
