"""A fleet of a given size under its day, and what a decision costs in it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from liveact_services.placement.autoscaling import Observation, ScalingRules, ScalingState, decide
from liveact_services.placement.choose import ReplicaView
from liveact_services.placement.fleet import Fleet
from liveact_services.placement.pins import Pin
from liveact_services.simulate.machines import Hardware
from liveact_services.simulate.service import Service
from liveact_services.simulate.simulation import Simulation
from liveact_services.simulate.workload import Demand, draw

SESSIONS_A_REPLICA = 100
"""Sessions a day for each replica of the maximum: the busiest hour then takes somewhat under half of them, and the flash
crowd comes on top."""


@dataclass(frozen=True)
class Scenario:
    """One line of the table."""

    replicas: int
    """The most there may be."""
    sessions: int | None = None
    """A day; none: as many as the fleet is made for."""
    hours: float = 24.0
    seed: int = 1
    head_room: float = 0.075
    moves: bool = True
    gathers: bool = True

    def run(self) -> dict[str, Any]:
        """The day's figures: the same for the same scenario, on any machine."""
        demand = Demand(self.sessions or SESSIONS_A_REPLICA * self.replicas, hours=self.hours)
        hardware, service = Hardware(), Service(moves=self.moves, gathers=self.gathers)
        workload = draw(demand, self.seed)
        tally = Simulation(workload, self.rules, hardware, service, demand.until_s, self.seed).run()
        return {
            "replicas": self.replicas,
            **tally.figures(service.max_utilisation, hardware.gpus_per_replica, hardware.replicas_per_node),
        }

    @property
    def rules(self) -> ScalingRules:
        """The policy, which is the same for every size."""
        least = max(1, self.replicas // 50)
        return ScalingRules(min_replicas=least, max_replicas=self.replicas, head_room=self.head_room)


def decision_cost(replicas: int, rounds: int = 2000) -> dict[str, float]:
    """Microseconds of CPU that one placement and one decision of the policy take in a fleet of this size.

    Every replica but each fiftieth is full, so that the one with room has to be looked for. A placement is the choice and
    the note of it; the best of five times `rounds`.
    """
    fleet = Fleet()
    for number in range(replicas):
        fleet.add(ReplicaView(f"{number:08}", number, float(number % 50 != 49), 1.0))
    rules = ScalingRules(max_replicas=replicas)
    state = ScalingState()
    last = f"{replicas - 1:08}"
    fleet.update(last, held=0.0)
    place, scale = float("inf"), float("inf")
    for number in range(5):
        began = time.process_time()
        for _ in range(rounds):
            fleet.update(fleet.choose(Pin("session")), held=0.0)
        place = min(place, time.process_time() - began)
        began = time.process_time()
        for step in range(rounds):
            now = 10.0 * (number * rounds + step)
            seen = Observation(now, replicas, fleet.used, 0.0, 1.0, fleet.draining, fleet.idle_newest())
            _, state = decide(rules, seen, state)
        scale = min(scale, time.process_time() - began)
    return {"place_us": round(place / rounds * 1e6, 2), "scale_us": round(scale / rounds * 1e6, 2)}
