"""`liveact verify`: what a recording says of its making, and whether that holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liveact_services.cli import options
from liveact_services.cli.exits import BadInput, CheckFailed
from liveact_services.cli.output import Output

if TYPE_CHECKING:
    from liveact_services.provenance.manifest import Provenance


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A recording, MP4.")],
    trust: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Certificates of authorities whose signers are trusted.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Look for Content Credentials in a recording. Nothing is fetched.

    Exits with 1 when there are none, or when the file is not what was signed.
    """
    if not file.is_file():
        raise BadInput(f"{file}: cannot be read; accepted is a recording")
    output = Output(json)
    found = _credentials(file, trust)
    result: dict[str, Any] = {"credentials": None if found is None else dataclasses.asdict(found)}
    output.show(*_told(found))
    output.result(result)
    if found is None:
        raise CheckFailed(f"{file}: nothing that says how it was made")
    if found.state == "Invalid":
        raise CheckFailed(f"{file}: the Content Credentials do not hold: {', '.join(found.faults)}")


def _credentials(file: Path, trust: Path | None) -> Provenance | None:
    from liveact_services.provenance.manifest import read

    return read(file, trust.read_bytes() if trust is not None else b"")


def _told(found: Provenance | None) -> list[Any]:
    if found is None:
        return ["Content Credentials: none"]
    from rich.table import Table

    table = Table("Content Credentials", found.state)
    rows = {
        "signed by": f"{found.signer} ({found.issuer}), {found.algorithm}",
        "made with": found.generator,
        "made by a trained model": "yes, it says" if found.generated else "does not say",
        "session": found.session,
        "SHA-256 of the portrait": found.portrait_sha256,
        "remarks": ", ".join(found.faults),
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    return [table]
