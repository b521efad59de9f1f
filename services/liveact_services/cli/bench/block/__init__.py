"""`liveact bench block`: what a block costs from sound to encoded frames, and what bounds each part of it."""

from liveact_services.cli.bench.block.command import block

__all__ = ["block"]
