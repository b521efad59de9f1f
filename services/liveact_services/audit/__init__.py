"""The audit trail: who had which portrait speak, and when; a chain of events a tenant, in the log and in Redis."""
