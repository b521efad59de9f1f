"""What a suite gives: rows of figures, what they were measured with, and the files written beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

Row = dict[str, str | float | int | bool]
"""Figures of one contender by name; the first ones say which contender and on what."""
Progress = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and how much there is."""


def quiet(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class SuiteResult:
    """Everything that a reader needs to believe the figures or to measure them again."""

    suite: str
    rows: list[Row]
    settings: Mapping[str, object]
    """Seeds, sizes and counts."""
    pictures: list[Path] = field(default_factory=list)

    def to_dict(self, command: str, hardware: str) -> dict[str, object]:
        """As JSON says it, with date, hardware and the command that measured it; what is no number is None."""
        return {
            "suite": self.suite,
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "hardware": hardware,
            "command": command,
            "settings": dict(self.settings),
            "rows": [finite(row) for row in self.rows],
            "pictures": [path.name for path in self.pictures],
        }

    def write(self, folder: Path, command: str, hardware: str) -> Path:
        """SUITE.json in the folder, which is made. Returns its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.suite}.json"
        text = json.dumps(self.to_dict(command, hardware), indent=1, ensure_ascii=False, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")
        return path


def finite(row: Row) -> dict[str, object]:
    """The row with None for what is no number, rounded to what was measured."""
    return {name: _number(value) if isinstance(value, float) else value for name, value in row.items()}


def _number(value: float) -> float | None:
    return round(value, 5) if value - value == 0 else None
