"""Events chained by hash: who changes, adds or takes one out of the middle changes every hash after it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Head(NamedTuple):
    """Where a chain ends."""

    number: int
    """Of the next event."""
    hash: str
    """Of the last one; empty before the first."""

    @classmethod
    def read(cls, text: str) -> Head:
        number, _, digest = text.partition(" ")
        return cls(int(number), digest) if text else BEGINNING

    def text(self) -> str:
        return f"{self.number} {self.hash}"


BEGINNING = Head(0, "")


@dataclass(frozen=True)
class Kept:
    """One event as it is kept."""

    line: str
    hash: str

    @property
    def fields(self) -> dict[str, Any]:
        return json.loads(self.line)


def digest(before: str, line: str) -> str:
    """The hash of an event after the one whose hash is `before`: SHA-256 of both with a line's end between, in hex."""
    return hashlib.sha256(f"{before}\n{line}".encode()).hexdigest()


def chained(head: Head, lines: Iterable[str]) -> tuple[Head, list[Kept]]:
    """The events with their hashes, and where the chain ends then."""
    kept = []
    for line in lines:
        head = Head(head.number + 1, digest(head.hash, line))
        kept.append(Kept(line, head.hash))
    return head, kept


def faults(kept: Sequence[Kept], head: Head) -> list[str]:
    """What is wrong with a chain, in words; nothing where all of it holds.

    The oldest events may have been trimmed, so the chain is followed from the first that is there.
    """
    found = []
    before: str | None = None
    number: int | None = None
    for one in kept:
        try:
            here = one.fields["number"]
        except (ValueError, KeyError, TypeError):
            found.append(f"after event {number}: an entry that is no event")
            before, number = one.hash, None
            continue
        if number is not None and here != number + 1:
            found.append(f"event {here} follows event {number}")
        if before is None and here == 0:
            before = ""
        if before is not None and digest(before, one.line) != one.hash:
            found.append(f"event {here} is not what was written, or what was before it is not")
        before, number = one.hash, here
    if (number is not None and number + 1 != head.number) or (before or "") != head.hash:
        found.append(f"the newest events are missing: the last should be {head.number - 1} and is {number}")
    return found
