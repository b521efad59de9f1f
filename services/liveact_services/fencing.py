"""Who may still act on a session at a replica: nobody whose attempt is older than one that was seen there."""

from __future__ import annotations

from liveact_services.placement.pins import Superseded

REMEMBERED = 4096
"""Sessions of which the newest attempt is remembered, whether they are still held or not."""


class Fence:
    """The newest attempt of each session. Attempts of a later owner are greater than all of an earlier one."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def enter(self, session: str, attempt: int) -> None:
        """Act on the session at this attempt. Raises `Superseded` where a later one has."""
        if attempt < (seen := self._seen.get(session, 0)):
            raise Superseded(f"session {session}: attempt {attempt} came after attempt {seen} had begun")
        # The latest last: those nobody has asked for go first.
        self._seen.pop(session, None)
        self._seen[session] = attempt
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]
