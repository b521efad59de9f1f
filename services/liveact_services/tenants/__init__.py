"""Tenants: who may call, how they prove it, and what they may use."""

from liveact_services.tenants.access import Access, Caller
from liveact_services.tenants.directory import DirectoryError, TenantDirectory
from liveact_services.tenants.tenant import DEFAULT_POOL, DEFAULT_TENANT, UNLIMITED, Quotas, Tenant

__all__ = [
    "DEFAULT_POOL", "DEFAULT_TENANT", "UNLIMITED", "Access", "Caller", "DirectoryError", "Quotas", "Tenant",
    "TenantDirectory",
]  # fmt: skip
