"""The store's key names."""

from __future__ import annotations

from liveact_services.sessions.database import Database
from liveact_services.sessions.states import ENDED, SessionState


class SessionKeys:
    """Where a session's parts lie under a database's prefix."""

    def __init__(self, database: Database) -> None:
        self._key = database.key
        self.due = database.key("sessions", "due")
        """Sorted set of session ids by when the sweep looks at them: a live one's expiry, an ended one's removal."""

    def session(self, session_id: str) -> str:
        return self._key("session", session_id)

    def lease(self, session_id: str) -> str:
        return self._key("session", session_id, "lease")

    def of_tenant(self, tenant: str) -> str:
        """Set of the tenant's sessions, ended ones too."""
        return self._key("tenant", tenant, "sessions")

    def live_of_tenant(self, tenant: str) -> str:
        """Set of those that count towards its quota."""
        return self._key("tenant", tenant, "live")


def state_list(states: frozenset[SessionState]) -> str:
    """States as the scripts search them: every name with a space on either side."""
    return f" {' '.join(sorted(state.name for state in states))} "


ENDED_LIST = state_list(ENDED)
