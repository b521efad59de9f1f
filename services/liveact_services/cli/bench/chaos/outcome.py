"""What a chaos run showed: who was killed when, and what the viewers saw of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from liveact_models.hardware import hardware
from liveact_services.client.viewer_clock import ViewerClock

if TYPE_CHECKING:
    from rich.table import Table

CALM = "none"
"""The time before the first blow."""


@dataclass(frozen=True)
class Blow:
    """One part's end, in seconds of `time.perf_counter`."""

    kind: str
    at: float


@dataclass
class Viewer:
    """What one client saw of one session. It shows a frame when it is due; a late one moves all that follow."""

    seed: int
    began: float = 0.0
    ended: float = float("inf")
    """When its session began and ended, in seconds of `time.perf_counter`."""
    frames: int = 0
    unequal: int = 0
    """Frames that are not those of the undisturbed run."""
    migrations: int = 0
    reconnections: list[float] = field(default_factory=list)
    """When its connection was there again."""
    error: str = ""
    """Why the session did not end as it should."""
    stalls: list[tuple[float, float]] = field(default_factory=list)
    """(when it ended, how long it was), in seconds."""
    _clock: ViewerClock | None = None

    def video(self, indices: Sequence[int], arrived: float, delay: float, fps: float) -> None:
        """Frames came at that moment, for a picture that starts `delay` seconds after the first."""
        for index in indices:
            if index != self.frames and not self.error:
                self.error = f"frame {index} came where frame {self.frames} was next"
            self.frames += 1
        self._clock = self._clock or ViewerClock(fps, delay)
        if late := self._clock.came(len(indices), arrived):
            self.stalls.append((arrived, late))

    def stalled(self, since: float, until: float) -> float:
        """Seconds without picture of the times that began between two moments: one blow's stall may last beyond the next."""
        return sum(length for ended, length in self.stalls if since <= ended - length < until)


@dataclass(frozen=True)
class Row:
    """One kind of blow, and the time from each to the next."""

    kind: str
    kills: int
    stalls: list[float]
    """Of each viewer that was there: seconds without picture."""
    reconnections: int
    lost: int

    def to_dict(self) -> dict[str, Any]:
        p50, p95, most = (round(percentile(self.stalls, percent), 3) for percent in (50, 95, 100))
        return {
            "kills": self.kills, "viewers": len(self.stalls), "stall_p50_s": p50, "stall_p95_s": p95, "stall_max_s": most,
            "reconnections": self.reconnections, "lost": self.lost,
        }  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """All viewers of a run, and what was struck meanwhile."""

    viewers: list[Viewer]
    blows: list[Blow]
    began: float
    ended: float
    refused: int = 0
    """Times a session could not be opened, and was tried again."""
    interrupted: bool = False
    broken: str = ""
    """Why the run ended early: what was struck and did not come back."""

    @property
    def errors(self) -> list[str]:
        """What must not be, by session."""
        found = [f"seed {viewer.seed}: {viewer.error}" for viewer in self.viewers if viewer.error]
        found += [f"seed {viewer.seed}: {viewer.unequal} frames differ" for viewer in self.viewers if viewer.unequal]
        return [*found, self.broken] if self.broken else found

    def rows(self) -> list[Row]:
        """By kind of blow, each time until the next counted to it; first the time before any."""
        marks = [Blow(CALM, self.began), *self.blows]
        spans = list(zip(marks, [*(blow.at for blow in self.blows), self.ended], strict=True))
        rows = []
        for kind in dict.fromkeys(mark.kind for mark in marks):
            times = [(mark.at, until) for mark, until in spans if mark.kind == kind]
            there = [(v, a, b) for a, b in times for v in self.viewers if v.began < b and v.ended > a]
            rows.append(
                Row(
                    kind,
                    sum(blow.kind == kind for blow in self.blows),
                    [viewer.stalled(since, until) for viewer, since, until in there],
                    sum(since < at <= until for viewer, since, until in there for at in viewer.reconnections),
                    sum(bool(viewer.error) and since < viewer.ended <= until for viewer, since, until in there),
                )
            )
        return rows

    def to_dict(self) -> dict[str, Any]:
        return {
            "kinds": {row.kind: row.to_dict() for row in self.rows()},
            "kills": len(self.blows),
            "sessions": len(self.viewers),
            "lost": sum(bool(viewer.error) for viewer in self.viewers),
            "frames_compared": sum(viewer.frames for viewer in self.viewers),
            "frames_unequal": sum(viewer.unequal for viewer in self.viewers),
            "reconnections": sum(len(viewer.reconnections) for viewer in self.viewers),
            "migrations": sum(viewer.migrations for viewer in self.viewers),
            "openings_refused": self.refused,
            "errors": self.errors,
            "interrupted": self.interrupted,
            "seconds": round(self.ended - self.began, 1),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "hardware": hardware(),
        }

    def table(self) -> Table:
        """The figures for people."""
        from rich.table import Table

        values = self.to_dict()
        title = (
            f"{values['kills']} kills in {values['seconds']:.0f} s; {values['sessions']} sessions, {values['lost']} lost; "
            f"{values['frames_compared']} frames compared, {values['frames_unequal']} unequal"
        )
        table = Table(title=title, title_justify="left")
        for column in ("killed", "times", "stall p50", "stall p95", "stall max", "resumed", "lost"):
            table.add_column(column, no_wrap=True)
        for kind, figures in values["kinds"].items():
            stalls = [f"{figures[f'stall_{which}_s']:.2f} s" for which in ("p50", "p95", "max")]
            table.add_row(
                kind, str(figures["kills"] or "-"), *stalls, str(figures["reconnections"]), str(figures["lost"])
            )
        return table


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that at least so many percent of the values do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else 0.0
