"""The seam between a session's journal and the Vault that keeps it, and who of a session's owners may write there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from liveact_services.conductor.parts import Part

_BITS = 16


def first_attempt(token: int) -> int:
    """The attempt an owner of a session begins with: beyond all that those before it can have come to.

    `token` is the fencing token of its lease. An owner's recoveries count up from there.
    """
    return token << _BITS


def is_first(attempt: int) -> bool:
    """Whether its owner has recovered nothing yet."""
    return attempt % (1 << _BITS) == 0


def owner(attempt: int) -> int:
    """The fencing token of the owner whose attempt it is."""
    return attempt >> _BITS


@dataclass(frozen=True)
class Writing:
    """What a journal hands to the Vault at once."""

    pages: dict[str, bytes]
    """By name; each as `liveact_models.blob` packs it."""
    keep: tuple[str, ...] = ()
    """The pages that are to be there then; all others go."""
    floor: int = 0
    """The made block that the client may still ask for: the newest export that is not ahead of it is kept too."""
    cut: int | None = None
    """Exports before blocks beyond this one go: they are of blocks planned by an earlier owner, and are planned anew."""


@dataclass(frozen=True)
class Kept:
    """What the Vault holds of a session after a writing."""

    pages: frozenset[str]
    exports: dict[Part, list[int]]
    """The blocks before which exports of each part are held, the newest first."""


class Archive(Protocol):
    """Where journals are kept. Every call raises `PartLost` when it does not answer.

    The `attempt` says on whose behalf: once a later owner's was seen, an earlier owner gets SESSION_TAKEN_OVER.
    """

    async def write(self, session: str, attempt: int, writing: Writing) -> Kept:
        """Keep pages of the session's journal."""

    async def read(self, session: str, attempt: int | None) -> dict[str, bytes]:
        """The pages that are held whole; none of an unknown session. Without an attempt nobody is fenced."""
