"""How many replicas there should be, of what is held, what waits and what is due: one pure function.

Serve asks it through `serve_policy.py` and the simulator on its own clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from liveact_services.placement.choose import ROUNDING


class ScalingRules(BaseModel):
    """Between what bounds, with what head room and how fast a stage follows its sessions."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    min_replicas: Annotated[int, Field(ge=1)] = 1
    max_replicas: Annotated[int, Field(ge=1)]
    sessions_per_replica: Annotated[float, Field(gt=0)] | None = None
    """What one replica carries. The Denoiser and the VaeDecoder know it themselves; the other stages must be told."""
    head_room: Annotated[float, Field(ge=0, le=4)] = 0.075
    """Room kept free beyond what is held, waits and is due, as a share of it."""
    up_after_s: Annotated[float, Field(ge=0)] = 0.0
    """How long more replicas must be wanted before they are started."""
    down_after_s: Annotated[float, Field(ge=0)] = 180.0
    """How long fewer must be wanted before any is given up; then as many stay as were wanted at most in that time."""
    start_s: Annotated[float, Field(ge=0)] = 240.0
    """What a replica needs from being asked for to serving, its node included: growth is followed that far ahead."""
    trend_s: Annotated[float, Field(gt=0)] = 1200.0
    """Over how long growth is measured."""

    @model_validator(mode="after")
    def _bounds(self) -> ScalingRules:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas {self.max_replicas} is below min_replicas {self.min_replicas}: accepted is as many or more"
            )
        return self


@dataclass(frozen=True, slots=True)
class Observation:
    """A stage as it stands. Loads are in sessions, or in shares of a replica, as `per_replica` is."""

    now: float
    """Seconds, of any clock that only goes forward."""
    asked: int
    """Replicas asked for by now, those that start included."""
    admitted: float
    """What its replicas hold."""
    waiting: float
    """What was turned away and asks again."""
    per_replica: float
    """What one replica carries."""
    draining: int = 0
    """Replicas that take no more sessions for a reason that is not ours: an operator's, a node that goes."""
    idle_newest: int = 0
    """How many of the newest hold nothing, those that still start among them: so many can be taken away."""


@dataclass(frozen=True, slots=True)
class ScalingState:
    """What is remembered from one decision to the next."""

    demands: tuple[tuple[float, float], ...] = ()
    """When, and what was held and waited then: over the last `trend_s`, a tenth of it apart."""
    wants: tuple[tuple[float, int], ...] = ()
    """When, and how many replicas were wanted then: over the last `down_after_s`, without those that a later one exceeds."""
    up_since: float | None = None
    """Since when more is wanted than there is."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now."""

    target: int
    """Replicas to ask for. It is lowered by replicas without sessions only."""
    surplus: int
    """How many of the newest, beyond those that `target` takes away, are to be drained, so that they can go too."""
    demand: float
    """What was held, waited and was due, in the observation's unit."""


def carried(held: float, used: float, most: float) -> float:
    """Sessions that one replica carries: as many as those held would be if the replicas they fill were full; `most` at most.

    `used`: how many full replicas those held would make, by what the replicas measured; 0 where nobody knows.
    """
    return min(most, held / used) if held > 0 and used > 0 else most


def decide(rules: ScalingRules, seen: Observation, state: ScalingState) -> tuple[Decision, ScalingState]:
    """The number of replicas, and what to remember.

    Up as soon as `up_after_s` allows. Down to the most that was wanted within `down_after_s`, and only by replicas without
    sessions; of the others it says how many should be drained. What is due is the growth of the last `trend_s`, gone on with
    for `start_s`.
    """
    now, current = seen.now, seen.admitted + seen.waiting
    demands = _kept(rules, state.demands, now, current)
    demand = current + _due(rules, demands[0], now, current)
    wanted = math.ceil(demand * (1 + rules.head_room) / seen.per_replica - ROUNDING)
    wanted = min(max(wanted, rules.min_replicas), rules.max_replicas)
    serving = seen.asked - seen.draining
    # What was there at the start counts as wanted: nothing is given up before it was watched for a while.
    wants = _wants(rules, state.wants or ((now, serving),), now, wanted)
    if wanted > serving:
        since = now if state.up_since is None else state.up_since
        # What drains has its GPU still, so it counts against the maximum.
        target = min(wanted + seen.draining, rules.max_replicas) if now - since >= rules.up_after_s else seen.asked
        return Decision(max(target, seen.asked), 0, demand), ScalingState(demands, wants, since)
    too_many = max(0, serving - wants[0][1])
    idle = min(too_many, seen.idle_newest)
    return Decision(seen.asked - idle, too_many - idle, demand), ScalingState(demands, wants)


def _kept(
    rules: ScalingRules, demands: tuple[tuple[float, float], ...], now: float, current: float
) -> tuple[tuple[float, float], ...]:
    """Of the demands the last `trend_s`, and one that is as old or older; never empty."""
    while len(demands) > 1 and demands[1][0] <= now - rules.trend_s:
        demands = demands[1:]
    if demands and now - demands[-1][0] < rules.trend_s / 10:
        return demands
    return (*demands, (now, current))


def _due(rules: ScalingRules, oldest: tuple[float, float], now: float, current: float) -> float:
    """What is expected to come on top until a replica that is asked for now serves; a decline counts for nothing.

    Nor does growth that chance explains: of as many sessions as come and go unbidden, two counts differ by about the root of
    their sum.
    """
    began, before = oldest
    growth = current - before - math.sqrt(current + before)
    # Never over less than trend_s: a service that has just started has no trend.
    return max(0.0, growth / max(now - began, rules.trend_s) * rules.start_s)


def _wants(
    rules: ScalingRules, wants: tuple[tuple[float, int], ...], now: float, wanted: int
) -> tuple[tuple[float, int], ...]:
    """The wants of the last `down_after_s` and this one; the first of them is the largest."""
    kept = [(when, number) for when, number in wants if number > wanted and now - when < rules.down_after_s]
    return (*kept, (now, wanted))
