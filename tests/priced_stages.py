"""A Denoiser whose sessions cost what is said here, however fast the machine is: for services that are to be full."""

from __future__ import annotations

from typing import Any

from liveact_services.config import ServiceConfig
from liveact_services.denoiser import admission, deployment
from liveact_services.denoiser.costs import BlockCosts

SETTLED_S = 2.0
"""In place of a minute."""
SMALL, SHARE = 32 * 32, 0.2
"""Pixels of a picture, and what a session of it takes of the device's time at 20 frames a second."""


class FixedCosts(BlockCosts):
    def block_s(self, width: int, height: int) -> float:
        return SHARE * 1.6 * width * height / SMALL


class Denoiser(deployment.Denoiser):
    """Deployed in the place of the real one, by its name."""

    def __init__(self, config: ServiceConfig, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self._turns.costs = self._admission._costs = FixedCosts()
        admission.SETTLED_S = SETTLED_S
