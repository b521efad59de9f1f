"""A session of another Gateway goes on here: its client came with the token, and that Gateway has gone or was not reached."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from liveact_services.conductor.journal import Journal
from liveact_services.conductor.parts import Part, PartLost
from liveact_services.conductor.succession import Remains
from liveact_services.errors import ServiceError, fail
from liveact_services.gateway.live_session import LiveSession
from liveact_services.gateway.requests import VoiceFormat
from liveact_services.sessions import SessionState

if TYPE_CHECKING:
    from liveact_services.conductor.archive import Archive
    from liveact_services.conductor.succession import SucceedingStages
    from liveact_services.config import SessionLimits
    from liveact_services.gateway.ledger import Ledger

ASKING_S = 5.0
"""How long a Vault that does not answer is asked for a journal."""
RETRY_S = 0.25


async def take_over(
    ledger: Ledger,
    archive: Archive,
    stages: Callable[[Ledger], SucceedingStages],
    limits: SessionLimits,
    ended: Callable[[LiveSession], None],
    frame: int,
) -> LiveSession:
    """Make a session this Gateway's, from this frame on; its client's requests are wanted from `next_request` on.

    The record in the ledger is the session's as it stands in Redis. Raises `ServiceError`: SESSION_LOST and
    RESUME_FRAME_UNAVAILABLE before anything was taken from the Gateway that may still run it, and what taking the lease
    raises.
    """
    since, session = time.monotonic(), ledger.record.id
    Remains.of(await _journal(archive, session, None), frame)
    await ledger.take_over()
    try:
        # Whoever had the session writes no more there from now on, so this is all there will be.
        remains = Remains.of(await _journal(archive, session, ledger.attempt), frame)
    except ServiceError as error:
        if error.reason == "SESSION_TAKEN_OVER":
            ledger.let_go()
        else:
            await ledger.close(SessionState.FAILED)
        raise
    except BaseException:
        # The client has hung up meanwhile. It may come again: the lease lapses, and the journal is there.
        ledger.let_go()
        raise
    spec, serving = remains.opening.spec, stages(ledger)
    serving.inherit(remains, {Part.DENOISER: ledger.record.denoiser, Part.DECODER: ledger.record.decoder})
    journal = Journal(archive, session, ledger.attempt, serving.protect)
    journal.go_on(remains.pages, remains.others, remains.state.made, frame)
    live = LiveSession(spec, VoiceFormat(**remains.opening.voice), serving, ledger, limits, ended, journal)
    live.conductor.restore(remains.state, remains.again(serving), frame)
    live.go_on(frame, since)
    return live


async def _journal(archive: Archive, session: str, attempt: int | None) -> dict[str, bytes]:
    """The session's pages. Raises SESSION_LOST where the Vault does not answer."""
    try:
        async with asyncio.timeout(ASKING_S):
            while True:
                try:
                    return await archive.read(session, attempt)
                except PartLost:
                    await asyncio.sleep(RETRY_S)
    except TimeoutError:
        text = "the server that held this session has gone, and its journal cannot be reached"
        raise fail("SESSION_LOST", text, retry_after_s=ASKING_S) from None
