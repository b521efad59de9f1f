"""One call of a client, as it is measured and traced from its first byte to its end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from grpc import StatusCode

from liveact_services.audit.event import Action
from liveact_services.audit.witness import Witness
from liveact_services.observability.meter import METER
from liveact_services.observability.metrics import OPENS, REFUSALS, RESUMES
from liveact_services.observability.tracing import TRACING

if TYPE_CHECKING:
    from liveact_services.errors import ServiceError
    from liveact_services.gateway.live_session import LiveSession
    from liveact_services.gateway.portraits import Source

_SERVICES = (StatusCode.UNAVAILABLE, StatusCode.INTERNAL, StatusCode.UNKNOWN, StatusCode.DEADLINE_EXCEEDED)
"""What is no client's doing."""


class StreamCall:
    """A stream: a new session's, or the continuation of one."""

    def __init__(self, metadata: Iterable[tuple[str, str]], witness: Witness | None = None) -> None:
        self.witness = witness or Witness()
        self._live: LiveSession | None = None
        self._resumes = False
        self._error: ServiceError | None = None
        self._span = TRACING.root("StreamAvatar", {key: value for key, value in metadata if isinstance(value, str)})

    @property
    def trace(self) -> str:
        """What its parts carry."""
        return self._span.trace

    def serves(self, live: LiveSession, portrait: Source) -> None:
        """This session was begun, of that portrait."""
        self._live = live
        live.meter.witness = self.witness.of_session(live.spec.tenant, live.spec.session)
        self.witness.tell(
            Action.OPENED,
            session=live.spec.session,
            avatar=portrait.avatar,
            portrait_sha256=portrait.sha256,
            consent=portrait.consent,
            watermark=live.spec.watermark,
        )

    def resumes(self) -> None:
        """It wants to go on with a session."""
        self._resumes = True

    def resumed(self, live: LiveSession, place: str) -> None:
        """It goes on with this one: `here`, or `taken_over` from another Gateway."""
        self._live = live
        METER.record(RESUMES, place=place)
        live.meter.witness = self.witness.of_session(live.spec.tenant, live.spec.session)
        self.witness.tell(Action.RESUMED, session=live.spec.session, detail=place)

    def failed(self, error: ServiceError) -> None:
        """It ended with an error."""
        self._error = error
        METER.record(REFUSALS, call="resume" if self._resumes else "stream", reason=error.reason)
        if not self._resumes and (self._live is None or not self._live.is_ready):
            METER.record(OPENS, outcome=_outcome(error))
        if self._live is None:
            self.witness.tell(Action.REFUSED, reason=error.reason, detail="resume" if self._resumes else "")

    def end(self) -> None:
        """It is over, in whatever way."""
        session = "" if self._live is None else self._live.spec.session
        reason = "" if self._error is None else self._error.reason
        self._span.end(self._error, session=session, reason=reason, resumed=self._resumes)


def refused(error: ServiceError) -> None:
    """A call that is no stream was answered with an error."""
    METER.record(REFUSALS, call="unary", reason=error.reason)


def _outcome(error: ServiceError) -> str:
    """What a new session came to that did not become ready."""
    if error.reason == "CAPACITY":
        return "no_room"
    return "failed" if error.code in _SERVICES else "refused"
