"""Weights as files: where released ones are had, whether a folder of them is whole, and in eight bits."""

from liveact_models.weights.errors import HubUnavailable, WeightsError

__all__ = ["HubUnavailable", "WeightsError"]
