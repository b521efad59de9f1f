"""What sessions take of a replica, and what is left of it."""

from __future__ import annotations

from dataclasses import dataclass

ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Demand:
    """What one session takes."""

    utilisation: float
    memory: float
    """Bytes."""


@dataclass(slots=True)
class Room:
    """What is left of a replica."""

    sessions: int
    utilisation: float
    memory: float
    """Bytes; inf where memory is not what limits."""
    due: int = 0
    """Sessions held that take a utilisation."""

    def copy(self) -> Room:
        """Another that is as large now."""
        return Room(self.sessions, self.utilisation, self.memory, self.due)

    def take(self, demand: Demand) -> None:
        """A session comes."""
        self.sessions -= 1
        self.utilisation -= demand.utilisation
        self.memory -= demand.memory
        self.due += demand.utilisation > 0

    def give(self, demand: Demand) -> None:
        """A session goes."""
        self.sessions += 1
        self.utilisation += demand.utilisation
        self.memory += demand.memory
        self.due -= demand.utilisation > 0

    def fits(self, demand: Demand, slack: float = ROUNDING) -> bool:
        """Whether the session can come. `slack`: utilisation beyond the bound."""
        # A device too slow for even one session in time still serves one.
        in_time = demand.utilisation <= self.utilisation + slack or demand.utilisation == 0 or self.due == 0
        return self.sessions >= 1 and in_time and demand.memory <= self.memory

    def lacks(self, demand: Demand, slack: float = ROUNDING) -> str:
        """What the replica is full of, in words; "" where the session fits."""
        if self.fits(demand, slack):
            return ""
        if self.sessions < 1:
            return "as many sessions as it may hold"
        if demand.memory > self.memory:
            return "as much as its device's memory holds"
        return "as much as its device can show in time"
