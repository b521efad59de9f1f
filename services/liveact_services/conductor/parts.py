"""The seam under a session that survives: what it asks of those who serve it, one call at a time.

A session has two parts that keep state, each held by one replica. `ResilientStages` makes of these calls a session that goes
on when a replica does not; it knows neither Ray nor gRPC, and in tests the calls are answered in one process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from liveact_services.placement.pins import ASK_AGAIN_S

if TYPE_CHECKING:
    import numpy as np

    from liveact_services.conductor.stages import BlockPlan, Boundary, SessionSpec, VideoPart


class Part(StrEnum):
    """The halves of a session's state."""

    DENOISER = "denoiser"
    DECODER = "decoder"


class PartLost(Exception):
    """What was asked has gone or does not answer; asking elsewhere, or again, may help."""


class NoPlace(Exception):
    """No replica takes the session now."""

    def __init__(self, text: str = "no replica takes the session", retry_after_s: float = ASK_AGAIN_S) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s
        """When to ask again."""


class ExportRefused(Exception):
    """An export cannot be adopted: it is damaged, of another version or model, or not held any more."""


@dataclass(frozen=True)
class Moved:
    """A session went on somewhere else."""

    parts: tuple[Part, ...]
    block: int
    """The block that was being shown to the client when it was lost or left."""
    frame: int
    """The first frame that is made after it."""
    stall_s: float
    """Seconds from noticing the loss to that frame, or, while no block was under way, to being ready for one. Of a session
    that left: from the end of its last block there to being ready for that frame; what was made is shown meanwhile."""
    cause: str = "lost"
    """Or `leaving`, with its replica, or `gateway`, with its Gateway."""


Latents = Any
"""A block's latents, made or in the making, wherever they are."""


class Graph(Protocol):
    """Those who serve, for any number of sessions.

    `attempt` counts a session's recoveries: a part that has been told of one sends away calls of those before, however late
    they come. Those of a session's owners are apart (`archive.first_attempt`): `open`, `adopt` and `settle` raise
    SESSION_TAKEN_OVER (`ServiceError`) where a later owner has come, and `close` and `forget` then do nothing. Replicas are
    asked with the session's spec: whose replicas they are depends on its pool. Every call may raise `PartLost`.
    """

    async def open(self, part: Part, spec: SessionSpec, portrait: np.ndarray, attempt: int, avoid: str) -> str:
        """Place the part anew, before block 0, on any replica but `avoid`; gives the replica's id. Raises `NoPlace`."""

    async def adopt(
        self, part: Part, spec: SessionSpec, block: int, attempt: int, *, replica: str | None, avoid: str
    ) -> str:
        """Have a replica (this one, or any but `avoid`) go on from the export before `block`; gives its id.

        Raises `NoPlace` and `ExportRefused`.
        """

    async def settle(self, part: Part, replica: str, spec: SessionSpec, attempt: int) -> int:
        """Begin an attempt at a replica that still holds the part; gives the block before which it stands."""

    def denoise(self, replica: str, spec: SessionSpec, plan: BlockPlan, attempt: int) -> Latents:
        """Start a block, with the sound and prompt of its plan."""

    async def made(self, latents: Latents) -> None:
        """Wait for latents; raises what their making raised."""

    def decode(
        self, replica: str, spec: SessionSpec, plan: BlockPlan, latents: Latents, first_frame: int, attempt: int
    ) -> AsyncIterator[VideoPart]:
        """Start the video of a plan's block, of which the frames before `first_frame` are not wanted."""

    async def exports(self, part: Part, session: str) -> list[int]:
        """The blocks before which exports of the part are held, the newest first."""

    def leaving(self, part: Part, replica: str) -> bool:
        """Whether the replica is about to go, so that what it holds should go before. Costs nothing to ask."""

    def turn(self, replica: str) -> AbstractAsyncContextManager[object]:
        """Have a few sessions at a time leave a replica, so that each waits for a few others at most."""

    async def hand_over(self, part: Part, replica: str, spec: SessionSpec, attempt: int) -> Boundary:
        """Begin an attempt, finish the block that is being made and put the part's value into the Vault.

        Calls of earlier attempts for later blocks are sent away. The replica goes on holding the part until it is closed.
        """

    def hold(self, part: Part, replica: str, spec: SessionSpec) -> AsyncIterator[None]:
        """Have the replica stay for the session, until it is closed there. An item comes whenever the replica wants it to leave.

        Iterating raises `PartLost` as soon as the replica goes.
        """

    async def keep(self, part: Part, replica: str, spec: SessionSpec) -> None:
        """Have the replica go on holding a session that has no blocks to make."""

    async def protect(self, part: Part, replica: str, spec: SessionSpec, attempt: int) -> None:
        """Have the replica export the session soon: what the Vault had of it is lost."""

    async def close(self, part: Part, replica: str, spec: SessionSpec, attempt: int) -> None:
        """Have the replica forget the session; one that has gone has forgotten it already."""

    async def forget(self, session: str, attempt: int) -> None:
        """Have the session's exports forgotten, and its journal."""
