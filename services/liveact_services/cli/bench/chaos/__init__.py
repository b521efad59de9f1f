from liveact_services.cli.bench.chaos.command import chaos

__all__ = ["chaos"]
