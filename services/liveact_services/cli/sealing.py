"""Options that sign a recording, and what they come to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from liveact_services.cli.exits import BadInput

if TYPE_CHECKING:
    from liveact.v1 import avatar_pb2 as pb2

Cert = Annotated[
    Path | None,
    typer.Option(
        "--c2pa-cert",
        envvar="LIVEACT_C2PA_CERT",
        metavar="PEM",
        help="Sign the MP4 with this certificate and its chain.",
    ),
]
Key = Annotated[
    Path | None,
    typer.Option("--c2pa-key", envvar="LIVEACT_C2PA_KEY", metavar="PEM", help="The certificate's private key."),
]


def seal(
    cert: Path | None, key: Path | None, out: str, portrait: bytes = b"", checkpoint: str = ""
) -> Callable[[Path, pb2.Session], None] | None:
    """What a recorder does with the finished file; None where nothing is to be signed.

    Looks at certificate and key now, before anything is recorded. Raises `BadInput` and `ProvenanceError`.
    """
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise BadInput("--c2pa-cert and --c2pa-key: accepted are both, or neither")
    from liveact_services.provenance.credentials import Credentials
    from liveact_services.provenance.manifest import Recording, require_library, sign

    require_library()
    credentials = Credentials.load(cert, key)
    digest = hashlib.sha256(portrait).hexdigest() if portrait else ""

    def sealed(path: Path, session: pb2.Session) -> None:
        made = session.checkpoint or checkpoint
        sign(path, Recording(Path(out).name, digest, session.name.removeprefix("sessions/"), made), credentials)

    return sealed
