"""Stages of which one call never returns, for a service whose replicas are to hang."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from liveact_services.config import ServiceConfig
from liveact_services.replica import Compute
from liveact_services.vae_decoder import deployment

T = TypeVar("T")


class HangingCompute(Compute):
    """The first call that finds the file takes it away, and hangs for ever."""

    def __init__(self, trap: Path) -> None:
        super().__init__("hanging")
        self._trap = trap

    def _timed(self, function: Callable[..., T], *args: Any) -> T:
        return super()._timed(self._trapped, function, *args)

    def _trapped(self, function: Callable[..., T], *args: Any) -> T:
        try:
            self._trap.unlink()
        except FileNotFoundError:
            return function(*args)
        threading.Event().wait()
        raise AssertionError("an event that nobody sets was set")


class VaeDecoder(deployment.VaeDecoder):
    """Deployed in the place of the real one, by its name."""

    def __init__(self, config: ServiceConfig, *args: Any) -> None:
        super().__init__(config, *args)
        self.compute = HangingCompute(trap(config))


def trap(config: ServiceConfig) -> Path:
    """The file that has a decoder hang."""
    return config.data_dir / "hang"
