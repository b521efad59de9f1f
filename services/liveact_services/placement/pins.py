"""The words in which a caller tells the router where a call belongs.

They travel as Serve's `session_id`, the one value a router sees of a call:
    "{session}@{replica}"               pinned: to this replica or not at all
    "{session}~{size}"                  placement: any replica, free ones first
    "{session}~{size}!{replica}!..."    placement, but not on these, which have refused
"""

from __future__ import annotations

from dataclasses import dataclass

ASK_AGAIN_S = 5.0
"""After which a client whose session found no place is told to ask again."""


class ReplicaGone(Exception):
    """The replica a session is pinned to no longer serves."""


class Superseded(Exception):
    """The call belongs to an attempt that was given up: another has begun since."""


class ReplicaFull(Exception):
    """A replica refused to admit a session; another may take it.

    Its arguments are the id of the replica that refused and, where it knows, in how many seconds it probably has room.
    """


class NoReplica(Exception):
    """Every replica has refused the session."""


@dataclass(frozen=True)
class Pin:
    """A routing key, taken apart."""

    session: str
    replica: str | None = None
    refused: tuple[str, ...] = ()
    size: float = 1.0
    """How much room it takes, in the unit in which replicas of the deployment tell theirs (`ReplicaView.unit`)."""

    @classmethod
    def parse(cls, key: str) -> Pin:
        if "@" in key:
            session, replica = key.split("@", 1)
            return cls(session, replica)
        first, *refused = key.split("!")
        session, _, size = first.partition("~")
        return cls(session, None, tuple(refused), float(size or 1.0))

    def __str__(self) -> str:
        if self.replica is not None:
            return f"{self.session}@{self.replica}"
        return "!".join((f"{self.session}~{self.size:g}", *self.refused))
