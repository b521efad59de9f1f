"""What keeps a recording from being signed or read."""

from __future__ import annotations


class ProvenanceError(ValueError):
    """A certificate, key or file that is not accepted. The message names it and what is accepted."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def missing() -> ProvenanceError:
    """The library is not installed."""
    return ProvenanceError("C2PA_MISSING", "c2pa-python is not installed: pip install 'liveact-serve[c2pa]'")
