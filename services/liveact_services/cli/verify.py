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
    from liveact_services.watermark.reading import Found


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A recording, MP4.")],
    trust: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Certificates of authorities whose signers are trusted.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Look for Content Credentials and the invisible watermark in a recording. Nothing is fetched.

    Exits with 1 when there is neither, or when the file is not what was signed.
    """
    if not file.is_file():
        raise BadInput(f"{file}: cannot be read; accepted is a recording")
    output = Output(json)
    found, readable = _credentials(file, trust)
    mark = _mark(file)
    result: dict[str, Any] = {
        "credentials": None if found is None else dataclasses.asdict(found), "credentials_readable": readable,
        "watermark": None if mark is None else dataclasses.asdict(mark),
    }  # fmt: skip
    output.show(*(_told(found) if readable else ["Content Credentials: not looked for, c2pa-python is not installed"]))
    output.show(
        "Invisible watermark: none that can be read"
        if mark is None
        else f"Invisible watermark: session {mark.session}..., strength {mark.strength:.2f} of 1 over {mark.frames} frames"
    )
    output.result(result)
    if found is None and mark is None:
        raise CheckFailed(f"{file}: nothing that says how it was made")
    if found is not None and found.state == "Invalid":
        raise CheckFailed(f"{file}: the Content Credentials do not hold: {', '.join(found.faults)}")


def _credentials(file: Path, trust: Path | None) -> tuple[Provenance | None, bool]:
    """What the manifest says, and whether there is a library to read it."""
    from liveact_services.provenance.errors import ProvenanceError
    from liveact_services.provenance.manifest import read

    try:
        return read(file, trust.read_bytes() if trust is not None else b""), True
    except ProvenanceError as error:
        if error.reason == "C2PA_MISSING" and trust is None:
            return None, False
        raise


def _mark(file: Path) -> Found | None:
    from liveact_services.watermark.reading import read

    try:
        return read(file)
    except ValueError as error:
        raise BadInput(str(error)) from None


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
