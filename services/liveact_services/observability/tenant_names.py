"""Labels for tenants, so few that a metric stays small however many tenants there are."""

from __future__ import annotations

OTHER = "other"


class TenantNames:
    """The first tenants seen have their names, all others are `OTHER`: a counter must not change its label under way."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._named: set[str] = set()

    def label(self, tenant: str) -> str:
        """What the tenant is called in metrics."""
        if tenant in self._named:
            return tenant
        if len(self._named) < self._most:
            self._named.add(tenant)
            return tenant
        return OTHER
