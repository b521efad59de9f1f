"""The serving graph: Ray Serve microservices around liveact_models."""

__version__ = "0.1.0"
