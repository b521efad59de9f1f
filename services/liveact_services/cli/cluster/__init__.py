"""`liveact cluster`: the service on Kubernetes."""

from liveact_services.cli.cluster.commands import app

__all__ = ["app"]
