from liveact_services.cli.bench.load.command import load

__all__ = ["load"]
