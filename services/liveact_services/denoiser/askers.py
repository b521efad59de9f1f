"""Which tenants were refused lately, and how much of the line each may take: a tenant that asks all the time keeps nobody out."""

from __future__ import annotations


class Askers:
    """Tenants that were refused, by weight, each for so many seconds since it last was."""

    def __init__(self, lately_s: float) -> None:
        self._lately_s = lately_s
        self._refused: dict[str, tuple[float, float]] = {}
        """When a tenant was refused last, and its weight; who was refused longest ago comes first."""
        self._weights = 0.0
        """Of all of them."""

    def refused(self, tenant: str, weight: float, now: float) -> None:
        """The tenant was told to come back."""
        self._forget(tenant)
        self._refused[tenant] = now, weight
        self._weights += weight

    def share(self, tenant: str, weight: float, now: float) -> float:
        """Of what is promised, by weight among those that asked lately; 1 where nobody else did."""
        while self._refused and now - next(iter(self._refused.values()))[0] > self._lately_s:
            self._forget(next(iter(self._refused)))
        own = self._refused.get(tenant, (now, 0.0))[1]
        others = self._weights - own if len(self._refused) > (tenant in self._refused) else 0.0
        return weight / (weight + others)

    def _forget(self, tenant: str) -> None:
        if (known := self._refused.pop(tenant, None)) is not None:
            # A sum of many weights would drift; of none it is nothing.
            self._weights = self._weights - known[1] if self._refused else 0.0
