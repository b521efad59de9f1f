"""Which tenants were refused lately, and how much of the line each may take: a tenant that asks all the time keeps nobody out."""

from __future__ import annotations


class Askers:
    """Tenants that were refused, by weight, each for so many seconds since it last was."""

    def __init__(self, lately_s: float) -> None:
        self._lately_s = lately_s
        self._refused: dict[str, tuple[float, float]] = {}
        """When a tenant was refused last, and its weight."""

    def refused(self, tenant: str, weight: float, now: float) -> None:
        """The tenant was told to come back."""
        self._refused[tenant] = now, weight
        for name, (at, _) in list(self._refused.items()):
            if now - at > self._lately_s:
                del self._refused[name]

    def share(self, tenant: str, weight: float, now: float) -> float:
        """Of what is promised, by weight among those that asked lately; 1 where nobody else did."""
        others = sum(w for name, (at, w) in self._refused.items() if name != tenant and now - at <= self._lately_s)
        return weight / (weight + others)
