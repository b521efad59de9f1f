"""The exports a Vault holds: per session and part the newest two or three, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from liveact_models import blob
from liveact_models.blob import StateError
from liveact_services.conductor.parts import Part

KEPT = 2
"""Exports of each part: the older one serves where the newer is damaged, or ahead of what was shown."""
AHEAD = 2
"""Blocks by which a part can be ahead of what was shown, which is how many are unfinished at a time. Of exports made at other
boundaries than every few blocks, so many more are kept that one is as old as that."""

REMEMBERED = 4096
"""Forgotten sessions whose exports are still turned away: one may have been on its way when its session was closed."""


class VaultFull(Exception):
    """The export does not fit beside those of the sessions in use."""


class ExportMissing(Exception):
    """The export asked for is not held."""


@dataclass
class _Held:
    """One session's exports by part and block."""

    used: float
    """When it was last put, got or asked about."""
    parts: dict[Part, dict[int, bytes]] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(len(export) for blocks in self.parts.values() for export in blocks.values())


class Shelf:
    """Where exports lie. It checks none; `check` does, and takes as long as a checksum over the export."""

    def __init__(self, max_bytes: int, idle_s: float, now: Callable[[], float] = time.monotonic) -> None:
        """Sessions nobody has asked about for `idle_s` make room for others."""
        self._max_bytes, self._idle_s, self._now = max_bytes, idle_s, now
        self._sessions: dict[str, _Held] = {}
        self._forgotten: dict[str, None] = {}

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(held.nbytes for held in self._sessions.values())

    @property
    def sessions(self) -> list[str]:
        """The sessions of which something is held."""
        return list(self._sessions)

    def put(self, session: str, part: Part, block: int, export: bytes) -> None:
        """Keep an export; of more than are needed the oldest goes, also when it is this one. Raises `VaultFull`.

        Of a session that was forgotten nothing is kept.
        """
        if session in self._forgotten:
            return
        held = self._sessions.get(session)
        blocks = {} if held is None else held.parts.get(part, {})
        all_of_them = {**blocks, block: export}
        kept = {at: all_of_them[at] for at in worth_keeping(list(all_of_them))}
        more = sum(map(len, kept.values())) - sum(map(len, blocks.values()))
        self._make_room(more, session)
        held = self._sessions.setdefault(session, _Held(self._now()))
        held.used = self._now()
        held.parts[part] = kept

    def blocks(self, session: str, part: Part) -> list[int]:
        """The blocks before which exports of the part are held, the newest first."""
        held = self._sessions.get(session)
        if held is None:
            return []
        held.used = self._now()
        return list(held.parts.get(part, {}))

    def get(self, session: str, part: Part, block: int) -> bytes:
        """The export before that block. Raises `ExportMissing`."""
        held = self._sessions.get(session)
        export = None if held is None else held.parts.get(part, {}).get(block)
        if held is None or export is None:
            raise ExportMissing(f"session {session}: no export of the {part} before block {block} is held")
        held.used = self._now()
        return export

    def drop(self, session: str, part: Part, block: int) -> None:
        """Forget one export; one that is not held is no error."""
        if session in self._sessions:
            self._sessions[session].parts.get(part, {}).pop(block, None)

    def forget(self, session: str) -> None:
        """Forget a session for good; an unknown one is no error."""
        self._sessions.pop(session, None)
        self._forgotten[session] = None
        if len(self._forgotten) > REMEMBERED:
            del self._forgotten[next(iter(self._forgotten))]

    def _make_room(self, more: int, session: str) -> None:
        oldest = self._now() - self._idle_s
        idle = sorted(
            (held.used, name) for name, held in self._sessions.items() if held.used < oldest and name != session
        )
        while (total := self.nbytes + more) > self._max_bytes:
            if not idle:
                raise VaultFull(
                    f"session {session}: {total} bytes would be held; accepted are {self._max_bytes} "
                    f"(vault.max_gib), and all {len(self._sessions)} sessions held are in use"
                )
            # Not for good: it may be a session whose Gateway was cut off, and comes back.
            del self._sessions[idle.pop(0)[1]]


def worth_keeping(blocks: list[int]) -> list[int]:
    """Of the boundaries of which there are exports those to keep, the newest first."""
    kept: list[int] = []
    for block in sorted(blocks, reverse=True):
        if len(kept) >= KEPT and kept[-1] <= kept[0] - AHEAD:
            break
        kept.append(block)
    return kept


def check(export: bytes, block: int) -> None:
    """Raise `StateError` for an export that is damaged, of another version, or not of the boundary before that block."""
    found = blob.verify(export).get("block")
    if found != block:
        raise StateError("STATE_FORMAT", f"the export was made before block {found}; {block} was said")
