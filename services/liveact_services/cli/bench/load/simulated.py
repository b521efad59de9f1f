"""What scheduler and admission make of more than the device can carry, on a simulated device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from liveact_services.cli.output import note

if TYPE_CHECKING:
    from rich.table import Table

    from liveact_services.denoiser.offered import Admitted, Shared

LOADS = (1.0, 2.0, 4.0)
IN_TIME = 0.99
DEVIATION = 0.1
FAIRNESS = 0.98
RIGHT = 0.9


@dataclass(frozen=True)
class LoadTable:
    """The same loads twice: behind the admission, and with nobody refused."""

    admitted: list[Admitted]
    shared: list[Shared]
    seconds: float
    seed: int

    @property
    def failures(self) -> list[str]:
        """What did not hold, in words."""
        found = []
        for one in self.admitted:
            if one.in_time_share < IN_TIME:
                found.append(f"{one.load:g}x: {one.in_time_share:.2%} of the blocks in time, at least {IN_TIME:.0%}")
            if one.fairness < FAIRNESS:
                found.append(f"{one.load:g}x: Jain's index {one.fairness:.3f}, at least {FAIRNESS}")
            if one.retry_right < RIGHT:
                found.append(f"{one.load:g}x: {one.retry_right:.1%} of the times told were right, at least {RIGHT:.0%}")
        for other in self.shared:
            if other.deviation > DEVIATION:
                found.append(f"{other.load:g}x shared: {other.deviation:.1%} off the weights, at most {DEVIATION:.0%}")
            if other.fairness < FAIRNESS:
                found.append(f"{other.load:g}x shared: Jain's index {other.fairness:.3f}, at least {FAIRNESS}")
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "passed": not self.failures,
            "simulated_s": self.seconds,
            "seed": self.seed,
            "admitted": [
                {
                    "load": one.load,
                    "admitted": one.admitted,
                    "refused": one.refused,
                    "utilisation": round(one.utilisation, 3),
                    "blocks": one.due_blocks,
                    "in_time": round(one.in_time_share, 5),
                    "came_back": one.came_back,
                    "retry_right": round(one.retry_right, 3),
                    "jain": round(one.fairness, 4),
                }
                for one in self.admitted
            ],
            "shared": [
                {
                    "load": other.load,
                    "shares": {name: round(share, 4) for name, share in sorted(other.shares.items())},
                    "fair": {name: round(share, 4) for name, share in sorted(other.fair.items())},
                    "deviation": round(other.deviation, 4),
                    "jain": round(other.fairness, 4),
                    "longest_wait_s": round(other.longest_wait_s, 2),
                }
                for other in self.shared
            ],
        }

    def tables(self) -> list[Table]:
        from rich.table import Table

        title = f"a simulated device for {self.seconds:.0f} s, seed {self.seed}: with admission"
        first = Table(
            "offered", "admitted", "refused", "device used", "blocks in time", "told times right", "Jain",
            title=title, title_justify="left",
        )  # fmt: skip
        for one in self.admitted:
            first.add_row(
                f"{one.load:g}x", str(one.admitted), str(one.refused), f"{one.utilisation:.0%}",
                f"{one.in_time_share:.2%} of {one.due_blocks}", f"{one.retry_right:.0%} of {one.came_back}",
                f"{one.fairness:.3f}",
            )  # fmt: skip
        second = Table(
            "offered", "share by tenant (fair)", "largest deviation", "Jain", "longest wait for a block",
            title="the same device, nobody refused", title_justify="left",
        )  # fmt: skip
        for other in self.shared:
            shares = ", ".join(f"{n} {other.shares[n]:.1%} ({other.fair[n]:.1%})" for n in sorted(other.fair))
            second.add_row(
                f"{other.load:g}x", shares, f"{other.deviation:.1%}", f"{other.fairness:.3f}",
                f"{other.longest_wait_s:.1f} s",
            )  # fmt: skip
        return [first, second]


def measure(seconds: float, seed: int, max_utilisation: float | None = None) -> LoadTable:
    """Both tables' rows."""
    from liveact_services.config import SessionLimits
    from liveact_services.denoiser.offered import OfferedLoad, shared

    bound = SessionLimits().max_utilisation if max_utilisation is None else max_utilisation
    admitted, together = [], []
    for offered in LOADS:
        note(f"{offered:g} times what the device can carry")
        admitted.append(OfferedLoad(offered, seed, bound).run(seconds))
        together.append(shared(offered, seed, seconds))
    return LoadTable(admitted, together, seconds, seed)
