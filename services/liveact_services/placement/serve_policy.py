"""The autoscaling policy as Serve wants it: what its controller knows of a deployment, handed to `decide`.

Serve pickles this module's class by value, with the objects it names, and modules by name: hence `board.BOARD`. It
asks some ten times a second; replicas report every ten seconds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from liveact_services.placement import board
from liveact_services.placement.autoscaling import Observation, ScalingRules, ScalingState, carried, decide

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingConfig, AutoscalingContext

STATE = "liveact"


class Role(StrEnum):
    """How a stage stands to the sessions."""

    LEADS = "leads"
    """Its replicas hold the sessions that decide how many there are: a Denoiser."""
    HOLDS = "holds"
    """It follows the Denoisers, and its replicas hold sessions too."""
    FRONTS = "fronts"
    """The same, and its sessions go nowhere else: a Gateway."""
    FOLLOWS = "follows"
    """It follows the Denoisers; any of its replicas may go."""


class SessionPolicy:
    """Replicas of one deployment by the sessions there are, not by the requests under way."""

    def __init__(self, rules: dict[str, Any], per_replica: float, role: str) -> None:
        self._rules, self._per_replica, self._role = ScalingRules(**rules), per_replica, Role(role)

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Serve's call: the target, and the state that it hands back with the next one."""
        now = float(context.current_time or 0.0)
        held, turned_away, draining, idle, used, expected = self._reported(context)
        per_replica = carried(held, used, self._per_replica)
        # Those that were told when to come back stay away until then.
        waiting = max(turned_away, expected * per_replica)
        application = context.app_name or ""
        if self._role is Role.LEADS:
            board.BOARD.tell(application, context.deployment_name, held + waiting, now)
        else:
            held = max(held, board.BOARD.sessions(application, now))
        seen = Observation(now, context.target_num_replicas, held, waiting, per_replica, draining, idle)
        decision, state = decide(self._rules, seen, context.policy_state.get(STATE, ScalingState()))
        # Sessions leave a replica that Serve stops, where others have room; and they have not while somebody waits.
        known = len((context.raw_metrics or {}).get("held", {})) >= context.target_num_replicas
        leave = self._role is not Role.FRONTS and known and not waiting
        return decision.target - (decision.surplus if leave else 0), {STATE: state}

    def _reported(self, context: AutoscalingContext) -> tuple[float, float, int, int, float, float]:
        """Held, turned away, draining, how many of the newest are idle, and in full replicas what those held and those told to
        come back take; as of the replicas' last reports."""
        reports = context.raw_metrics or {}

        def last(name: str) -> dict[Any, float]:
            series = reports.get(name, {})
            return {replica: float(points[-1].value) for replica, points in series.items() if points}

        held, turned_away, draining, started = map(last, ("held", "turned_away", "draining", "started_at"))
        open_to_all = [replica for replica in turned_away if not draining.get(replica)]
        # A session without a place was turned away by every replica, so the one that turned away fewest says how many.
        waiting = min((turned_away[replica] for replica in open_to_all), default=0.0)
        starting = max(0, context.target_num_replicas - len(context.running_replicas))
        if self._role is Role.FOLLOWS:
            return 0.0, 0.0, 0, context.target_num_replicas, 0.0, 0.0
        idle = starting
        # One that has not reported yet may hold something, and is among the newest.
        newest = sorted(context.running_replicas, key=lambda r: started.get(r, float("inf")), reverse=True)
        for replica in newest:
            if held.get(replica, 1.0) > 0:
                break
            idle += 1
        used, expected = (sum(last(name).values()) for name in ("used", "waiting"))
        return sum(held.values()), waiting, sum(map(bool, draining.values())), idle, used, expected


def autoscaling_config(rules: ScalingRules, per_replica: float, role: Role, initial: int) -> AutoscalingConfig:
    """What Serve is told of a stage with these rules. Its own delays and factors are off: the hysteresis is ours."""
    from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

    return AutoscalingConfig(
        min_replicas=rules.min_replicas, max_replicas=rules.max_replicas, initial_replicas=initial,
        upscale_delay_s=0, downscale_delay_s=0, look_back_period_s=15,
        policy=AutoscalingPolicy(
            policy_function=SessionPolicy,
            policy_kwargs={"rules": rules.model_dump(), "per_replica": per_replica, "role": role.value},
        ),
    )  # fmt: skip
