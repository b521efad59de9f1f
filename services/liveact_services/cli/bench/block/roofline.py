"""What bounds a part: the device's arithmetic, its memory, or neither, which is overhead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from liveact_models.ceilings import Ceilings
from liveact_services.cli.bench.blocks import significant

NEAR = 0.5
"""A part that reaches less of either ceiling is bound by neither."""


@dataclass(frozen=True)
class Part:
    """One part of a block, as measured and as counted."""

    name: str
    seconds: float
    tflop: float
    gigabytes: float
    """10^9 bytes that must be read at least: weights once a pass, and caches."""
    ceilings: Ceilings

    @property
    def of_arithmetic(self) -> float:
        """Share of the arithmetic ceiling that was reached."""
        return self.tflop / self.ceilings.tflop_per_s / self.seconds if self.seconds else 0.0

    @property
    def of_memory(self) -> float:
        """Share of the memory's ceiling that was reached at least."""
        return self.gigabytes / self.ceilings.gb_per_s / self.seconds if self.seconds else 0.0

    @property
    def bound(self) -> str:
        """What it is bound by."""
        name, reached = max((("arithmetic", self.of_arithmetic), ("memory", self.of_memory)), key=lambda pair: pair[1])
        return name if reached >= NEAR else "neither"

    def to_dict(self) -> dict[str, Any]:
        return {
            "part": self.name, "ms": round(1000 * self.seconds, 3), "tflop": significant(self.tflop),
            "tflop_per_s": significant(self.tflop / self.seconds) if self.seconds else None,
            "gb_per_s": significant(self.gigabytes / self.seconds) if self.seconds else None,
            "of_arithmetic": significant(self.of_arithmetic), "of_memory": significant(self.of_memory), "bound": self.bound,
        }  # fmt: skip
