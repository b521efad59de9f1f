"""What is known of a store that is away or takes no writes: who may try it, and what the log is told, once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from liveact_services.errors import ServiceError, fail

RETRY_S = 0.5
"""A store that is away is tried so often."""
TELL_AGAIN_S = 60.0
"""A refusal that comes and goes is logged no more often."""

_log = logging.getLogger(__name__)


class Outage:
    """Whether the store answers, by the calls made to it.

    While it does not, one call at a time finds out whether it is back, and all others fail at once: nobody waits for what another
    has just waited for in vain, and a server that comes back is not overrun.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._away_since: float | None = None
        self._answered_at = now()
        self._next_try = 0.0
        self._trying = False
        self._refused: set[str] = set()
        """Scripts whose last writing was refused."""
        self._told = False
        self._told_at = -TELL_AGAIN_S

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Around a call. Raises STORE_UNAVAILABLE at once while the store is away and it is not this call's turn to try it."""
        if self._away_since is None:
            yield
            return
        if self._trying or self._now() < self._next_try:
            raise fail("STORE_UNAVAILABLE", _AWAY)
        self._trying = True
        try:
            yield
        finally:
            self._trying = False

    def answered(self) -> None:
        """A call was answered, if only by a refusal."""
        self._answered_at = self._now()
        if self._away_since is not None:
            _log.warning("the session store answers again after %.0f s", self._answered_at - self._away_since)
            self._away_since = None

    def unanswered(self, began: float, cause: BaseException) -> bool:
        """A call that began then was not answered; whether the store is away, as was not known before.

        One slow answer among others says nothing of the store.
        """
        self._next_try = self._now() + RETRY_S
        if self._away_since is not None or self._answered_at > began:
            return False
        self._away_since = began
        _log.error("the session store does not answer, running streams go on: %s: %s", type(cause).__name__, cause)
        return True

    def refused(self, script: str, why: str) -> None:
        """The store answers, but writes nothing: memory or disk is full, or it is a replica. `script`: "" for a reading."""
        if not self._told and self._now() - self._told_at >= TELL_AGAIN_S:
            self._told, self._told_at = True, self._now()
            _log.error("the session store refuses to write, running streams go on: %s", why)
        if script:
            self._refused.add(script)

    def written(self, script: str) -> None:
        """A script ran to its end."""
        # One that was not refused proves nothing: some free memory, or only renew what is there.
        if script not in self._refused:
            return
        self._refused.clear()
        if self._told:
            self._told = False
            _log.warning("the session store writes again")


class Unanswered(ServiceError):
    """A call was made and not answered: it may have been done."""

    def __init__(self) -> None:
        super().__init__("STORE_UNAVAILABLE", _AWAY)


_AWAY = "the session store does not answer; running streams go on"
_FULL = "the session store takes no writes; running streams go on"


def refusing() -> ServiceError:
    """A call was answered, and did nothing."""
    return fail("STORE_UNAVAILABLE", _FULL)
