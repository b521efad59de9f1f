"""Content Credentials (C2PA) on recordings: signed by whoever records, read by whoever wants to know."""
