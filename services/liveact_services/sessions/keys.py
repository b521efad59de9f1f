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

    def places_of_tenant(self, tenant: str) -> str:
        """Sorted set of the sessions that count towards its quota, by when each place lapses unless it is renewed."""
        return self._key("tenant", tenant, "places")

    def streams_of_tenant(self, tenant: str) -> str:
        """The same of those with a client attached."""
        return self._key("tenant", tenant, "streams")

    def usage_of_tenant(self, tenant: str) -> str:
        """Hash of a UTC day and the milliseconds of video made in it."""
        return self._key("tenant", tenant, "usage")

    def requests_of_tenant(self, tenant: str) -> str:
        """Its token bucket."""
        return self._key("tenant", tenant, "requests")

    def tenants(self) -> str:
        """What the keys of all tenants begin with; a script that knows the session finds its tenant's."""
        return self._key("tenant", "")


def state_list(states: frozenset[SessionState]) -> str:
    """States as the scripts search them: every name with a space on either side."""
    return f" {' '.join(sorted(state.name for state in states))} "


ENDED_LIST = state_list(ENDED)
