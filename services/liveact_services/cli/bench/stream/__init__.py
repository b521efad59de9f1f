"""`liveact bench stream`: what viewers behind a bad network see and hear."""

from liveact_services.cli.bench.stream.command import stream

__all__ = ["stream"]
