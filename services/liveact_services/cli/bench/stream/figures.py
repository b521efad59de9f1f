"""What viewers saw, in numbers and as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from liveact_models.hardware import hardware
from liveact_models.timeline import BLOCK_FRAMES
from liveact_services.cli.bench.stream.path import Weather
from liveact_services.cli.bench.stream.viewer import Interrupt, Viewing

if TYPE_CHECKING:
    from rich.table import Table

MOST_SKEW_S = 0.06
WAYS = ("service", "in_process")


@dataclass(frozen=True)
class Seen:
    """One way's viewers: those that only watched, and those that interrupted."""

    watching: list[Viewing]
    interrupting: list[Viewing]

    @property
    def interrupts(self) -> list[Interrupt]:
        return [one for viewing in self.interrupting for one in viewing.interrupts]

    @property
    def failures(self) -> list[str]:
        return [viewing.failed for viewing in (*self.watching, *self.interrupting) if viewing.failed]


@dataclass(frozen=True)
class Figures:
    """Both ways, and what lay between viewers and service."""

    service: Seen
    in_process: Seen
    weather: Weather
    seconds: float
    """Of voice, through the service."""
    in_process_s: float
    width: int
    height: int

    @property
    def mistakes(self) -> list[str]:
        """What must not be."""
        found = [f"a session failed: {failure}" for failure in self.service.failures]
        found += [
            f"viewer {number}: sound and picture are {1000 * viewing.skew_s:.0f} ms apart at the end"
            for number, viewing in enumerate(self.service.watching)
            if abs(viewing.skew_s) > MOST_SKEW_S
        ]
        heard = delays(self.service.interrupts, lambda one: one.heard)
        block_s = BLOCK_FRAMES / (self.service.watching[0].fps if self.service.watching else 20)
        if heard and np.percentile(heard, 95) > block_s:
            found.append(
                f"old sound {np.percentile(heard, 95):.2f} s after an interrupt (p95), a block is {block_s:.2f} s"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        ways = {name: getattr(self, name) for name in WAYS}
        return {
            "clients": len(self.service.watching),
            "seconds": self.seconds,
            "in_process_seconds": self.in_process_s,
            "delay_ms": 1000 * self.weather.delay_s,
            "jitter_ms": 1000 * self.weather.jitter_s,
            "loss": self.weather.loss,
            **{name: {**overall(seen.watching), "per_client": [one(v) for v in seen.watching]}
               for name, seen in ways.items()},
            "interrupts": {name: bounds(seen.interrupts) for name, seen in ways.items()},
            "failures": self.service.failures,
            "passed": not self.mistakes,
            "width": self.width,
            "height": self.height,
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "hardware": hardware(),
        }  # fmt: skip

    def tables(self) -> tuple[Table, Table]:
        from rich.table import Table

        path = self.weather
        title = (
            f"{self.width}x{self.height}, {self.seconds:.0f} s of voice, {self.in_process_s:.0f} s in process; "
            f"path: {1000 * path.delay_s:.0f} ms, "
            f"+ 0-{1000 * path.jitter_s:.0f} ms, {100 * path.loss:.1f} % lost"
        )
        seen = Table(
            "viewer", "ready", "first frame", "spoken", "between messages p50 / p95 / p99", "stalls", "skew at the end",
            title=title, title_justify="left",
        )  # fmt: skip
        for name in WAYS:
            watching = getattr(self, name).watching
            for number, viewing in enumerate(watching):
                seen.add_row(f"{name.replace('_', ' ')} {number}", *_cells(one(viewing)))
            seen.add_row(f"{name.replace('_', ' ')}, all", *_cells(overall(watching)), end_section=True)
        stopped = Table("interrupt to the last old", "service", "in process", title_justify="left")
        values = {name: bounds(getattr(self, name).interrupts) for name in WAYS}
        for key, what in (
            ("sdk_picture", "picture, SDK's play"), ("sdk_sound", "sound, SDK's play"),
            ("plain_picture", "picture, a player that leaves nothing out"),
        ):  # fmt: skip
            stopped.add_row(what, *(_bound(values[name], key) for name in WAYS))
        return seen, stopped


def one(viewing: Viewing) -> dict[str, Any]:
    """One viewer's figures, milliseconds and seconds."""
    stalls, stall_s = viewing.stalls
    return {
        "ready_ms": _ms(_since(viewing.opened_at, viewing.ready_at)),
        "first_frame_ms": _ms(_since(viewing.opened_at, viewing.first_frame_at)),
        "first_spoken_ms": _ms(_since(viewing.voice_at, viewing.first_spoken_at)),
        **_gaps(viewing.gaps),
        "frames": viewing.frames,
        "stalls": stalls,
        "stall_s": round(stall_s, 3),
        "skew_ms": round(1000 * viewing.skew_s, 1),
        "sound_lead_min_ms": _ms(min(viewing.sound_lead_s, default=None)),
        "reconnections": viewing.reconnections,
        "failed": viewing.failed,
    }


def overall(viewings: Sequence[Viewing]) -> dict[str, Any]:
    """All viewers together: medians of what happens once, percentiles over every message, the worst skew."""
    each = [one(viewing) for viewing in viewings]
    gaps = np.concatenate([viewing.gaps for viewing in viewings]) if viewings else np.zeros(0)
    return {
        **{key: _median(values[key] for values in each) for key in ("ready_ms", "first_frame_ms", "first_spoken_ms")},
        **_gaps(gaps),
        "frames": sum(values["frames"] for values in each),
        "stalls": sum(values["stalls"] for values in each),
        "stall_s": round(sum(values["stall_s"] for values in each), 3),
        "skew_ms": max((values["skew_ms"] for values in each), key=abs, default=None),
    }


def delays(interrupts: Iterable[Interrupt], moment: Callable[[Interrupt], float]) -> list[float]:
    """Seconds from each interrupt to that moment of it."""
    return [moment(interrupt) - interrupt.asked for interrupt in interrupts]


def bounds(interrupts: Sequence[Interrupt]) -> dict[str, Any]:
    """Milliseconds from asking to the last old picture and sound."""
    parts: dict[str, Callable[[Interrupt], float]] = {
        "sdk_picture": lambda i: i.seen, "sdk_sound": lambda i: i.heard, "plain_picture": lambda i: i.plain_seen,
    }  # fmt: skip
    figures: dict[str, Any] = {"count": len(interrupts)}
    for name, moment in parts.items():
        values = delays(interrupts, moment)
        for percent in (50, 95):
            figures[f"{name}_p{percent}_ms"] = (
                round(1000 * float(np.percentile(values, percent)), 1) if values else None
            )
    return figures


def _gaps(gaps: np.ndarray) -> dict[str, Any]:
    return {f"gap_p{p}_ms": _ms(float(np.percentile(gaps, p))) if len(gaps) else None for p in (50, 95, 99)}


def _cells(values: dict[str, Any]) -> list[str]:
    def text(key: str, unit: str = "ms") -> str:
        return "-" if values[key] is None else f"{values[key]:.0f} {unit}"

    gaps = " / ".join("-" if values[f"gap_p{p}_ms"] is None else f"{values[f'gap_p{p}_ms']:.0f}" for p in (50, 95, 99))
    return [
        text("ready_ms"), text("first_frame_ms"), text("first_spoken_ms"), f"{gaps} ms",
        f"{values['stalls']}, {values['stall_s']:.2f} s", text("skew_ms"),
    ]  # fmt: skip


def _bound(values: dict[str, Any], key: str) -> str:
    if not values["count"]:
        return "-"
    return f"p50 {values[f'{key}_p50_ms']:.0f} ms, p95 {values[f'{key}_p95_ms']:.0f} ms, of {values['count']}"


def _since(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else end - start


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 1)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.median(known)), 1) if known else None
