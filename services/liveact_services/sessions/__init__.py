"""Sessions in Redis: records, states, leases, quotas, avatars, and the embedded server."""

from liveact_services.sessions.avatars import AvatarRecord, AvatarStore
from liveact_services.sessions.database import Clock, Database
from liveact_services.sessions.embedded import EmbeddedValkey, EmbeddedValkeyError
from liveact_services.sessions.leases import LeaseLost, Leases
from liveact_services.sessions.quotas import RequestQuota
from liveact_services.sessions.record import SessionRecord
from liveact_services.sessions.states import ENDED, MOVES, IllegalMove, SessionState
from liveact_services.sessions.store import SessionStore
from liveact_services.sessions.sweeper import Sweeper

__all__ = [
    "ENDED", "MOVES", "AvatarRecord", "AvatarStore", "Clock", "Database", "EmbeddedValkey", "EmbeddedValkeyError",
    "IllegalMove", "LeaseLost", "Leases", "RequestQuota", "SessionRecord", "SessionState", "SessionStore", "Sweeper",
]  # fmt: skip
