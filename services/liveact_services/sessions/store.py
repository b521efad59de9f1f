"""Session records in Redis. Whatever changes more than one key is one Lua script, so that no reader sees half of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from liveact_services.errors import ServiceError, fail
from liveact_services.sessions.database import Clock, Database
from liveact_services.sessions.keys import ENDED_LIST, SessionKeys, state_list
from liveact_services.sessions.leases import LeaseLost
from liveact_services.sessions.quotas import HOLD_MS, daily_ms, refusal
from liveact_services.sessions.record import WRITABLE, FieldValue, SessionRecord, encode
from liveact_services.sessions.states import IllegalMove, SessionState, sources
from liveact_services.sessions.tokens import token_matches, token_session
from liveact_services.tenants.tenant import UNLIMITED, Quotas

_SWEEP_BATCH = 500
Ended = Callable[[SessionRecord, SessionState], None]
"""Hears of a session, as it was, and of the state in which it ended."""

_log = logging.getLogger(__name__)


class SessionStore:
    """Whose sessions there are and where they stand. Every method raises STORE_UNAVAILABLE when Redis is away."""

    def __init__(self, database: Database, *, clock: Clock = time.time, retention_s: float = 600) -> None:
        """An ended session can be looked up for `retention_s`; then its record goes, so the store does not grow."""
        self._database = database
        self._clock = clock
        self._retention_s = retention_s
        self._keys = SessionKeys(database)

    async def ping(self) -> None:
        await self._database.ping()

    async def admit(self, record: SessionRecord, quotas: Quotas = UNLIMITED) -> None:
        """Writes a new session and reserves its place and its stream, if its tenant's quotas allow them.

        Raises QUOTA_SESSIONS, QUOTA_STREAMS, QUOTA_MINUTES or SESSION_EXISTS.
        """
        outcome, rest = await self._write_new(record, quotas, attached=True)
        if error := refusal(outcome, rest, record.tenant, quotas):
            raise error
        if outcome == "DUPLICATE":
            raise fail("SESSION_EXISTS", f"session {record.id} was admitted before")

    async def restore(self, record: SessionRecord) -> bool:
        """Writes a running session again after Redis lost its data. False where the record is there."""
        outcome, _ = await self._write_new(record, UNLIMITED, attached=False)
        return outcome == "OK"

    async def attach(self, session_id: str, tenant: str, quotas: Quotas = UNLIMITED) -> None:
        """Reserves the stream of a session that is resumed; one that takes over needs no second.

        `touch` renews it. Raises QUOTA_STREAMS, QUOTA_MINUTES, SESSION_NOT_FOUND, SESSION_ENDED or SESSION_EXPIRED.
        """
        outcome, rest = await self._database.run(
            "attach",
            [self._keys.session(session_id), self._keys.streams_of_tenant(tenant), self._keys.usage_of_tenant(tenant)],
            [session_id, _optional(quotas.streams), daily_ms(quotas), HOLD_MS, ENDED_LIST],
        )
        if error := refusal(outcome, rest, tenant, quotas):
            raise error
        if outcome == "ENDED":
            raise IllegalMove(session_id, SessionState[rest[0].decode()], SessionState.STREAMING)
        if outcome == "MISSING":
            raise _not_found(session_id)

    async def get(self, session_id: str, tenant: str) -> SessionRecord:
        """Raises SESSION_NOT_FOUND, also for another tenant's session."""
        record = await self._find(session_id)
        if record is None or record.tenant != tenant:
            raise _not_found(session_id)
        return record

    async def list(self, tenant: str) -> list[SessionRecord]:
        """The tenant's sessions, ended ones included while they are kept, newest first."""
        client = self._database.client
        ids: set[bytes] = await self._database.call(client.smembers(self._keys.of_tenant(tenant)))
        pipeline = client.pipeline(transaction=False)
        for session_id in ids:
            pipeline.hgetall(self._keys.session(session_id.decode()))
        hashes: list[dict[bytes, bytes]] = await self._database.call(pipeline.execute())
        # One may have been removed since its id was read.
        records = [SessionRecord.from_hash(stored) for stored in hashes if stored]
        return sorted(records, key=lambda record: (record.create_time, record.id), reverse=True)

    async def resume(self, token: str, tenant: str) -> SessionRecord:
        """The session a resume token opens.

        Raises RESUME_TOKEN_INVALID (malformed, unknown, wrong or another tenant's, not told apart),
        RESUME_TOKEN_EXPIRED or SESSION_ENDED.
        """
        record = await self._find(token_session(token))
        stored_hash = record.resume_hash if record else ""
        if not token_matches(token, stored_hash) or record is None or record.tenant != tenant:
            raise fail("RESUME_TOKEN_INVALID", "the resume token fits no session of this caller")
        if record.state is SessionState.EXPIRED or (not record.state.ended and record.expire_time <= self._clock()):
            raise fail("RESUME_TOKEN_EXPIRED", f"session {record.id} expired before it was resumed")
        if record.state.ended:
            raise fail("SESSION_ENDED", f"session {record.id} is {record.state.name}")
        return record

    async def move(
        self,
        session_id: str,
        to_state: SessionState,
        *,
        token: int | None = None,
        attached: bool = True,
        **fields: FieldValue,
    ) -> SessionRecord:
        """Moves a session if the stored state allows it, and writes `fields` with it; returns the new record.

        With a fencing token only the lease's holder may. An end frees the lease and the tenant's place, `attached=False`
        its stream. Raises SESSION_NOT_FOUND, IllegalMove or LeaseLost, and TypeError for a field that is not the caller's
        to write.
        """
        if unknown := fields.keys() - WRITABLE:
            raise TypeError(f"a move cannot write {', '.join(sorted(unknown))}; it can {', '.join(sorted(WRITABLE))}")
        now = self._clock()
        due = now + self._retention_s if to_state.ended else fields.get("expire_time")
        current = await self._find(session_id)
        if current is None:
            raise _not_found(session_id)
        outcome, rest = await self._database.run(
            "move",
            [
                self._keys.session(session_id),
                self._keys.lease(session_id),
                self._keys.places_of_tenant(current.tenant),
                self._keys.due,
                self._keys.streams_of_tenant(current.tenant),
                self._keys.usage_of_tenant(current.tenant),
            ],
            [
                session_id,
                state_list(sources(to_state)),
                "1" if to_state.ended else "",
                _optional(token),
                _optional(due),
                _optional(fields.get("frame")),
                "1" if attached else "0",
                *_pairs({**fields, "state": to_state, "update_time": now}),
            ],
        )
        match outcome:
            case "OK":
                values = rest[0]
                return SessionRecord.from_hash(dict(zip(values[::2], values[1::2], strict=True)))
            case "ILLEGAL":
                raise IllegalMove(session_id, SessionState[rest[0].decode()], to_state)
            case "STALE":
                raise LeaseLost(session_id)
            case _:
                raise _not_found(session_id)

    async def touch(
        self,
        session_id: str,
        token: int,
        *,
        block: int | None = None,
        frame: int | None = None,
        expire_time: float | None = None,
        attached: bool | None = None,
        quotas: Quotas = UNLIMITED,
        denoiser: str | None = None,
        decoder: str | None = None,
    ) -> float | None:
        """The lease holder's report: how far the session is and on which replicas, how long it may live, whether a client is
        attached.

        Renews what the session holds of its tenant's quotas and counts what it made since it last said so. Gives None, or
        the seconds to the next day where the minutes of this one are used up. Raises LeaseLost or SESSION_NOT_FOUND.
        """
        fields = {
            "block": block, "frame": frame, "expire_time": expire_time, "update_time": self._clock(),
            "denoiser": denoiser, "decoder": decoder,
        }  # fmt: skip
        outcome, rest = await self._database.run(
            "touch",
            [self._keys.session(session_id), self._keys.lease(session_id), self._keys.due],
            [
                session_id,
                token,
                _optional(expire_time),
                _optional(frame),
                "" if attached is None else str(int(attached)),
                daily_ms(quotas),
                HOLD_MS,
                self._keys.tenants(),
                *_pairs({n: v for n, v in fields.items() if v is not None}),
            ],
        )
        match outcome:
            case "STALE":
                raise LeaseLost(session_id)
            case "MISSING":
                raise _not_found(session_id)
            case "OVER":
                return float(rest[0])
            case _:
                return None

    async def close(self, session_id: str, tenant: str) -> SessionRecord:
        """Ends a session at its owner's wish; one that has ended stays as it ended. Raises SESSION_NOT_FOUND."""
        record = await self.get(session_id, tenant)
        if record.state.ended:
            return record
        try:
            return await self.move(session_id, SessionState.CLOSED)
        except IllegalMove:
            return await self.get(session_id, tenant)

    async def sweep(self, now: float | None = None, ended: Ended | None = None) -> dict[str, int]:
        """Ends every session whose time has passed and removes the records of long-ended ones.

        Any number of processes may sweep at once; `ended` hears of those that this one has ended. Returns how many became
        "EXPIRED" and "FAILED" and how many were "FORGOTTEN".
        """
        moment = self._clock() if now is None else now
        swept = {"EXPIRED": 0, "FAILED": 0, "FORGOTTEN": 0}
        while ids := await self._database.call(
            self._database.client.zrangebyscore(self._keys.due, "-inf", moment, start=0, num=_SWEEP_BATCH)
        ):
            outcomes = [await self._sweep_one(session_id.decode(), moment, ended) for session_id in ids]
            for outcome in outcomes:
                if outcome in swept:
                    swept[outcome] += 1
            if not any(outcome in swept for outcome in outcomes):
                break
        if any(swept.values()):
            _log.info("sweep: %s", swept)
        return swept

    async def _sweep_one(self, session_id: str, now: float, ended: Ended | None) -> str:
        record = await self._find(session_id)
        tenant = record.tenant if record else ""
        key, due = self._keys.session(session_id), self._keys.due
        if record is None or record.state.ended:
            outcome, _ = await self._database.run(
                "forget", [key, self._keys.of_tenant(tenant), due], [session_id, ENDED_LIST]
            )
            return "FORGOTTEN" if outcome == "OK" else outcome
        outcome, _ = await self._database.run(
            "expire",
            [
                key,
                self._keys.lease(session_id),
                self._keys.places_of_tenant(tenant),
                due,
                self._keys.streams_of_tenant(tenant),
            ],
            [session_id, now, now + self._retention_s, ENDED_LIST],
        )
        if ended is not None and outcome in ("EXPIRED", "FAILED"):
            ended(record, SessionState[outcome])
        return outcome

    async def _find(self, session_id: str) -> SessionRecord | None:
        stored = await self._database.call(self._database.client.hgetall(self._keys.session(session_id)))
        return SessionRecord.from_hash(stored) if stored else None

    async def _write_new(self, record: SessionRecord, quotas: Quotas, *, attached: bool) -> tuple[str, Sequence[Any]]:
        return await self._database.run(
            "admit",
            [
                self._keys.session(record.id),
                self._keys.of_tenant(record.tenant),
                self._keys.places_of_tenant(record.tenant),
                self._keys.due,
                self._keys.streams_of_tenant(record.tenant),
                self._keys.usage_of_tenant(record.tenant),
            ],
            [
                record.id,
                encode(record.expire_time),
                _optional(quotas.sessions),
                _optional(quotas.streams),
                daily_ms(quotas),
                HOLD_MS,
                "1" if attached else "0",
                *_pairs(record.to_hash()),
            ],
        )


def _pairs(fields: Mapping[str, FieldValue]) -> list[str]:
    return [text for name, value in fields.items() for text in (name, encode(value))]


def _optional(value: FieldValue | None) -> str:
    return "" if value is None else encode(value)


def _not_found(session_id: str) -> ServiceError:
    return fail("SESSION_NOT_FOUND", f"there is no session sessions/{session_id}")
