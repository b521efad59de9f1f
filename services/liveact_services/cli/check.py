"""One line of `liveact doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Found(StrEnum):
    """What a check came to. Only FAILED keeps the service from running as configured."""

    OK = "ok"
    ABSENT = "absent"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Check:
    """One line of the diagnosis."""

    area: str
    name: str
    found: Found
    detail: str
    fix: str = ""
