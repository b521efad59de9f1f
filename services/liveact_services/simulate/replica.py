"""A Denoiser of the simulated fleet: the admission that serves, with costs as it would have measured them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from liveact_services.conductor.stages import SessionSpec
from liveact_services.denoiser.admission import Admission, Refusal
from liveact_services.denoiser.costs import BlockCosts
from liveact_services.denoiser.simulation import Device

REFUSED = Refusal("drained")
"""A drained replica takes nobody later either: it tells no time."""


class SimulatedDenoiser:
    """What a fleet sees of a Denoiser: it admits or refuses, and tells how full it is.

    Its device is simulated and makes no blocks here: the cost of one is drawn for every session that comes.
    """

    __slots__ = ("_costs", "_device", "_random", "admission", "draining")

    def __init__(
        self, device: Device, max_sessions: int, max_utilisation: float, now: Callable[[], float], random: Random
    ) -> None:
        self.draining = False
        self._device, self._random = device, random
        self._costs = BlockCosts()
        self.admission = Admission(max_sessions, max_utilisation, self._costs, lambda spec: 0, now)

    def open(self, spec: SessionSpec, age_s: float = 0.0) -> Refusal | None:
        """Take the session, which has gone on for so long elsewhere; or why not."""
        if self.draining:
            return REFUSED
        if (refusal := self.admission.refusal(spec)) is None:
            self.admission.admit(spec, age_s)
            self._costs.record(spec.width, spec.height, self._device.block_s(spec, self._random))
        return refusal

    def make_room(self, spec: SessionSpec, elsewhere: list[float]) -> list[str]:
        """The sessions that leave for one that was refused."""
        return [] if self.draining else self.admission.make_room(spec, elsewhere)
