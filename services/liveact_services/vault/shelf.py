"""What a Vault holds: of each session the exports and the journal's pages that it may have to go on from, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from liveact_models import blob
from liveact_models.blob import StateError
from liveact_services.conductor.archive import Kept, Writing, owner
from liveact_services.conductor.parts import Part
from liveact_services.placement.pins import Superseded

KEPT = 2
"""Newest exports kept of each part: the older one serves where the newer is damaged, or ahead of what was given out."""
AHEAD = 2
"""Blocks by which a part can be ahead of what was shown, which is how many are unfinished at a time. Of exports made at other
boundaries than every few blocks, so many more are kept that one is as old as that."""

REMEMBERED = 4096
"""Forgotten sessions whose exports are still turned away: one may have been on its way when its session was closed."""


class VaultFull(Exception):
    """What came does not fit beside what is held of the sessions in use."""


class ExportMissing(Exception):
    """The export asked for is not held."""


@dataclass
class _Held:
    """One session's exports by part and block, and its pages by name."""

    used: float
    """When it was last put, got or asked about."""
    attempt: int = 0
    """The newest on whose behalf somebody came."""
    taken: bool = False
    """Whether that one went on from here at another Vault: what is held is out of date then."""
    floor: int = 0
    parts: dict[Part, dict[int, bytes]] = field(default_factory=dict)
    pages: dict[str, bytes] = field(default_factory=dict)
    nbytes: int = 0
    """Of all of them: counted as they come and go."""

    def put(self, part: Part, kept: dict[int, bytes]) -> None:
        self.nbytes += _size(kept) - _size(self.parts.get(part, {}))
        self.parts[part] = kept

    def turn(self, pages: dict[str, bytes]) -> None:
        self.nbytes += _size(pages) - _size(self.pages)
        self.pages = pages

    def clear(self) -> None:
        self.parts, self.pages, self.nbytes, self.floor, self.taken = {}, {}, 0, 0, False


class Shelf:
    """Where exports and pages lie. It checks none; `check` does, and takes as long as a checksum over the export.

    Whose they are is another matter: calls name their owner's attempt, and once a later owner of the session has come, those of
    an earlier one raise `Superseded` and change nothing.
    """

    def __init__(self, max_bytes: int, idle_s: float, now: Callable[[], float] = time.monotonic) -> None:
        """Sessions nobody has asked about for `idle_s` make room for others."""
        self._max_bytes, self._idle_s, self._now = max_bytes, idle_s, now
        self._sessions: dict[str, _Held] = {}
        self._forgotten: dict[str, int] = {}
        """With the attempt that forgot each."""
        self.nbytes = 0
        """Bytes held."""

    def __len__(self) -> int:
        """How many sessions something is held of."""
        return len(self._sessions)

    @property
    def sessions(self) -> list[str]:
        """The sessions of which something is held."""
        return list(self._sessions)

    # ---- exports -----------------------------------------------------------------------------------------------------------

    def put(self, session: str, part: Part, block: int, export: bytes, attempt: int = 0) -> None:
        """Keep an export, for as long as `worth_keeping` says. Raises `VaultFull` and `Superseded`.

        Of a session that was forgotten nothing is kept.
        """
        held = self._come(session, attempt)
        if held is None:
            return
        blocks = held.parts.get(part, {})
        kept = _kept({**blocks, block: export}, held.floor)
        self._make_room(_size(kept) - _size(blocks), session)
        self._settle(session, held, lambda: held.put(part, kept))

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
        if (held := self._sessions.get(session)) is not None and block in held.parts.get(part, {}):
            left = {b: export for b, export in held.parts[part].items() if b != block}
            self._settle(session, held, lambda: held.put(part, left))

    # ---- the journal -------------------------------------------------------------------------------------------------------

    def write(self, session: str, attempt: int, writing: Writing) -> Kept:
        """Keep pages in place of those there were. Raises `VaultFull`, and `Superseded` after a later owner.

        Of a session that was forgotten nothing is kept.
        """
        held = self._come(session, attempt)
        if held is None:
            return Kept(frozenset(writing.keep), {part: [] for part in Part})
        kept = {name: page for name, page in held.pages.items() if name in writing.keep}
        kept |= writing.pages
        self._make_room(_size(kept) - _size(held.pages), session)

        def turn() -> None:
            held.turn(kept)
            held.floor = writing.floor
            for part, blocks in held.parts.items():
                left = {b: e for b, e in blocks.items() if writing.cut is None or b <= writing.cut}
                held.put(part, _kept(left, held.floor))

        self._settle(session, held, turn)
        return Kept(frozenset(kept), {part: list(held.parts.get(part, {})) for part in Part})

    def read(self, session: str, attempt: int | None) -> dict[str, bytes]:
        """The session's pages. An attempt begins with it: raises `Superseded` where a later owner has come before."""
        held = self._sessions.get(session)
        if attempt is not None and held is not None:
            _require(session, attempt, held.attempt)
            # What is there is what its owner goes on from.
            held.attempt = max(held.attempt, attempt)
        if held is None:
            return {}
        held.used = self._now()
        return dict(held.pages)

    def take(self, session: str, attempt: int) -> dict[str, bytes]:
        """`read` for an owner at another Vault: what is held stays to be fetched, and is out of date from now on."""
        pages = self.read(session, attempt)
        if (held := self._sessions.get(session)) is not None:
            held.taken = True
        return pages

    def standing(self, session: str) -> tuple[int, bool]:
        """The newest attempt on whose behalf somebody came, and whether it went on elsewhere."""
        held = self._sessions.get(session)
        return (0, False) if held is None else (held.attempt, held.taken)

    def empty(self, session: str) -> None:
        """Drop what is held of the session, which goes on from what another Vault holds."""
        if (held := self._sessions.get(session)) is not None:
            self._settle(session, held, held.clear)

    def drop_page(self, session: str, name: str) -> None:
        """Forget one page; one that is not held is no error."""
        if (held := self._sessions.get(session)) is not None and name in held.pages:
            left = {n: page for n, page in held.pages.items() if n != name}
            self._settle(session, held, lambda: held.turn(left))

    # ---- sessions ----------------------------------------------------------------------------------------------------------

    def forget(self, session: str, attempt: int | None = None) -> None:
        """Forget a session for good; an unknown one is no error. Raises `Superseded` after a later owner."""
        if attempt is not None and session in self._sessions:
            _require(session, attempt, self._sessions[session].attempt)
        self._remove(session)
        self._forgotten[session] = max(attempt or 0, self._forgotten.pop(session, 0))
        if len(self._forgotten) > REMEMBERED:
            del self._forgotten[next(iter(self._forgotten))]

    def _come(self, session: str, attempt: int) -> _Held | None:
        """Where this owner's things lie; None where there is to be nothing any more."""
        if (ended := self._forgotten.get(session)) is not None:
            _require(session, attempt, ended)
            return None
        held = self._sessions.get(session)
        if held is None:
            return _Held(self._now(), attempt)
        _require(session, attempt, held.attempt)
        if owner(attempt) > owner(held.attempt):
            # This owner has not read what is there: it came from one that was given up while the Vault knew of neither.
            self._settle(session, held, held.clear)
        held.attempt = max(held.attempt, attempt)
        return held

    def _settle(self, session: str, held: _Held, change: Callable[[], None]) -> None:
        """Change what is held of the session, and count it."""
        before = held.nbytes if self._sessions.get(session) is held else 0
        change()
        self._sessions[session] = held
        self.nbytes += held.nbytes - before
        held.used = self._now()

    def _remove(self, session: str) -> None:
        if (held := self._sessions.pop(session, None)) is not None:
            self.nbytes -= held.nbytes

    def _make_room(self, more: int, session: str) -> None:
        if self.nbytes + more <= self._max_bytes:
            return
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
            self._remove(idle.pop(0)[1])


def worth_keeping(blocks: Iterable[int], floor: int = 0) -> list[int]:
    """Of the boundaries of which there are exports those to keep, the newest first.

    `floor`: the block of the first frame that a client may still ask for; one export is not ahead of it.
    """
    order = sorted(blocks, reverse=True)
    kept: list[int] = []
    for block in order:
        if len(kept) >= KEPT and kept[-1] <= kept[0] - AHEAD:
            break
        kept.append(block)
    behind = next((block for block in order if block <= floor), None)
    return kept if behind is None or behind in kept else [*kept, behind]


def check(export: bytes, block: int) -> None:
    """Raise `StateError` for an export that is damaged, of another version, or not of the boundary before that block."""
    found = blob.verify(export).get("block")
    if found != block:
        raise StateError("STATE_FORMAT", f"the export was made before block {found}; {block} was said")


def _kept(blocks: dict[int, bytes], floor: int) -> dict[int, bytes]:
    return {block: blocks[block] for block in worth_keeping(blocks, floor)}


def _require(session: str, attempt: int, seen: int) -> None:
    if owner(attempt) < owner(seen):
        raise Superseded(f"session {session}: attempt {attempt} came after attempt {seen} of a later owner")


def _size(held: dict[int, bytes] | dict[str, bytes]) -> int:
    return sum(map(len, held.values()))
