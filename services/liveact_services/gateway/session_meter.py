"""What a session at the Gateway is measured by, and what the log hears of its beginning and end."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from liveact_services.conductor.outputs import Event, Happening, Output, Video
from liveact_services.conductor.stages import Pacing
from liveact_services.observability import metrics
from liveact_services.observability.logs import TRACES
from liveact_services.observability.meter import METER
from liveact_services.sessions import SessionState

if TYPE_CHECKING:
    from liveact_services.audit.witness import SessionWitness
    from liveact_services.conductor.clock import PlayClock
    from liveact_services.conductor.stages import SessionSpec
    from liveact_services.errors import ServiceError

LIVE = tuple(state for state in SessionState if not state.ended)

log = logging.getLogger(__name__)


class SessionMeter:
    """Listens to one session's outputs. Nothing here waits or raises."""

    def __init__(self, spec: SessionSpec, clock: PlayClock) -> None:
        self._spec, self._clock, self._pool = spec, clock, spec.pool
        self._asked, self._heard_at, self._spoke = time.monotonic(), 0.0, False
        self._block, self._stalls, self._stalled_s = -1, 0, 0.0
        self.witness: SessionWitness | None = None
        """Who tells the audit trail."""
        TRACES.note(spec.session, spec.trace)

    def ready(self) -> None:
        """A new session is placed."""
        took = time.monotonic() - self._asked
        METER.record(metrics.OPENS, outcome="ready")
        METER.record(metrics.READY_SECONDS, took, pool=self._pool)
        log.info("session ready after %.2f s", took, extra=self._about)

    def heard(self) -> None:
        """Voice came."""
        self._heard_at = self._heard_at or time.monotonic()

    def emitted(self, output: Output) -> None:
        """This goes to the client."""
        if isinstance(output, Video):
            self._shown(output)
        elif isinstance(output, Event) and output.kind is Happening.UNDERRUN:
            METER.record(metrics.VOICE_UNDERRUNS, pool=self._pool)

    def migrated(self, cause: str, stall_s: float) -> None:
        """The session went on elsewhere."""
        METER.record(metrics.MIGRATIONS, cause=cause, pool=self._pool)
        METER.record(metrics.MIGRATION_SECONDS, stall_s, cause=cause)
        if self.witness is not None:
            self.witness.moved(cause, stall_s)

    def ended(self, state: SessionState, error: ServiceError | None, frames: int = 0, acknowledged: int = 0) -> None:
        """The session is over, here at least: so many frames were made, and so many the client said it has."""
        reason = "" if error is None else error.reason
        if reason == "SESSION_TAKEN_OVER":
            log.info("session went on at another server", extra=self._about)
            return
        METER.record(metrics.SESSION_ENDS, state=state.name.lower(), reason=reason)
        log.info("session %s %s", state.name.lower(), reason, extra=self._about)
        if self.witness is not None:
            self.witness.ended(state, error, frames, acknowledged, self._spec.fps)

    @property
    def _about(self) -> dict[str, str]:
        return {"session_id": self._spec.session}

    def _shown(self, video: Video) -> None:
        if video.part.block != self._block:
            self._begun(video.part.block)
        METER.record(
            metrics.TENANT_SECONDS, len(video.part.frames) / self._spec.fps, tenant=METER.tenant(self._spec.tenant)
        )
        if self._heard_at and not self._spoke and any(video.utterances):
            self._spoke = True
            METER.record(metrics.FIRST_FRAME_SECONDS, time.monotonic() - self._heard_at, pool=self._pool)

    def _begun(self, block: int) -> None:
        """A block's first frames are there; the clock has just been told."""
        first, self._block = self._block < 0, block
        if self._clock.block_s is not None:
            METER.record(metrics.BLOCK_SECONDS, self._clock.block_s, pool=self._pool)
        # Nobody waits for a moment where all is made as fast as it goes, nor for the block with which the clock begins.
        if first or self._spec.pacing is not Pacing.REALTIME:
            return
        stalls, stalled_s = self._clock.stalls - self._stalls, self._clock.stalled_s - self._stalled_s
        self._stalls, self._stalled_s = self._clock.stalls, self._clock.stalled_s
        METER.record(metrics.BLOCK_DEADLINES, pool=self._pool, outcome="missed" if stalls else "met")
        if stalls:
            METER.record(metrics.STALLS, stalls, pool=self._pool)
            METER.record(metrics.STALL_SECONDS, stalled_s, pool=self._pool)


def measure_sessions(held: Iterable[tuple[SessionState, str]], pools: Collection[str], *, store_away: bool) -> None:
    """Tell how many sessions are in which state and pool, the empty ones as well."""
    counted = Counter(held)
    for pool in pools:
        for state in LIVE:
            METER.record(metrics.SESSIONS, counted[state, pool], state=state.name.lower(), pool=pool)
    METER.record(metrics.STORE_AWAY, float(store_away))
