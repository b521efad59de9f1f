"""Autoscaling from the configuration to what Serve is given, and Serve's own driving of the policy."""

from __future__ import annotations

import base64
import subprocess
import sys
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve.config import AutoscalingContext

from liveact_models.config import ConfigError
from liveact_services.config import load_config
from liveact_services.placement import board
from liveact_services.placement.autoscaling import ScalingRules
from liveact_services.placement.board import DemandBoard
from liveact_services.placement.serve_policy import Role, autoscaling_config
from test_pools import bound

RULES: dict[str, Any] = {"max_replicas": 9, "head_room": 0.25, "down_after_s": 60, "start_s": 0}


@pytest.fixture(autouse=True)
def _a_board_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "BOARD", DemandBoard())


# ---- configuration -------------------------------------------------------------------------------------------------------------


def test_counts_are_fixed_unless_autoscaling_is_configured() -> None:
    deployments = bound(load_config(checkpoint="untrained", denoiser={"replicas": 2}))
    assert deployments["Denoiser"].num_replicas == 2
    assert deployments["Denoiser"]._deployment_config.autoscaling_config is None


def test_a_stage_and_a_pool_scale_by_rules_of_their_own() -> None:
    config = load_config(
        checkpoint="untrained", sessions={"max_sessions": 3}, denoiser={"autoscaling": {**RULES, "min_replicas": 2}},
        vae_decoder={"autoscaling": RULES}, audio_encoder={"autoscaling": {**RULES, "sessions_per_replica": 16}},
        pools={"gold": {"replicas": 4, "autoscaling": RULES}, "silver": {"replicas": 2}},
    )  # fmt: skip
    found = {name: d._deployment_config.autoscaling_config for name, d in bound(config).items()}
    assert {name for name, scaling in found.items() if scaling} == {
        "Denoiser", "Denoiser-gold", "VaeDecoder", "AudioEncoder",
    }  # fmt: skip
    given = {name: scaling.policy.policy_kwargs for name, scaling in found.items() if scaling}
    assert {name: (kwargs["per_replica"], kwargs["role"]) for name, kwargs in given.items()} == {
        "Denoiser": (3, "leads"), "Denoiser-gold": (3, "leads"), "VaeDecoder": (6, "holds"), "AudioEncoder": (16, "follows"),
    }  # fmt: skip
    first = found["Denoiser"]
    assert (first.min_replicas, first.initial_replicas, first.max_replicas) == (2, 2, 9)
    assert (found["Denoiser-gold"].min_replicas, found["Denoiser-gold"].initial_replicas) == (1, 4)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"denoiser": {"autoscaling": {"max_replicas": 0}}}, "denoiser.autoscaling.max_replicas"),
        (
            {"denoiser": {"autoscaling": {"min_replicas": 3, "max_replicas": 2}}},
            "denoiser.autoscaling: .*max_replicas 2 is below min_replicas 3: accepted is as many or more",
        ),
        (
            {"pools": {"gold": {"replicas": 5, "autoscaling": {"max_replicas": 4}}}},
            "pools.gold: .*replicas 5 to start with: accepted are 1 to 4, the bounds of `autoscaling`",
        ),
        ({"denoiser": {"autoscaling": {"max_replicas": 4, "headroom": 0.1}}}, "denoiser.autoscaling.headroom"),
        (
            {"audio_encoder": {"autoscaling": {"max_replicas": 4}}},
            "audio_encoder.autoscaling.sessions_per_replica is missing: accepted is how many sessions",
        ),
    ],
)
def test_wrong_autoscaling_is_refused_naming_the_field(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config(**fields)


# ---- the policy in Serve's hands -----------------------------------------------------------------------------------------------


class Controller:
    """Calls a policy as Serve's controller does: through its own wrapping, with the state it handed back."""

    def __init__(self, role: Role, name: str = "Denoiser", per_replica: float = 4, **rules: Any) -> None:
        from ray.serve._private.autoscaling_state import _resolve_policy_callable
        from ray.serve.autoscaling_policy import _apply_autoscaling_config

        self.config = autoscaling_config(ScalingRules(**{**RULES, **rules}), per_replica, role, 1)
        self.policy = _apply_autoscaling_config(_resolve_policy_callable(self.config.policy))
        self.id, self.asked, self.state = DeploymentID(name, "liveact"), 1, {}

    def at(self, now: float, *replicas: dict[str, float] | None) -> int:
        """A tick: what each running replica has reported, the oldest first; None where it has not."""
        ids = [ReplicaID(f"r{number}", self.id) for number in range(len(replicas))]
        raw: dict[str, dict[ReplicaID, Any]] = {}
        for number, (replica, report) in enumerate(zip(ids, replicas, strict=True)):
            for name, value in ({"started_at": 1e9 + number, **report} if report is not None else {}).items():
                raw.setdefault(name, {})[replica] = [TimeStampedValue(now - 9, 99.0), TimeStampedValue(now, value)]
        context = AutoscalingContext(
            deployment_id=self.id, deployment_name=self.id.name, app_name=self.id.app_name,
            current_num_replicas=len(ids), target_num_replicas=self.asked, running_replicas=ids[::-1],
            total_num_requests=0.0, total_queued_requests=0.0, aggregated_metrics={}, raw_metrics=raw,
            capacity_adjusted_min_replicas=1, capacity_adjusted_max_replicas=9, policy_state=self.state,
            last_scale_up_time=None, last_scale_down_time=None, current_time=now, config=self.config,
        )  # fmt: skip
        self.asked, self.state = self.policy(context)
        return self.asked


def report(held: float, turned_away: float = 0, draining: bool = False) -> dict[str, float]:
    return {"held": held, "turned_away": turned_away, "draining": float(draining)}


def test_the_policy_counts_sessions_held_and_turned_away() -> None:
    controller = Controller(Role.LEADS)
    assert controller.at(0) == 1, "nobody runs yet"
    assert controller.at(10, report(2)) == 1
    assert controller.at(20, report(4)) == 2, "four and a quarter more are more than one replica takes"
    # Six found no place anywhere; a seventh was turned away by the one and taken by the other.
    assert controller.at(30, report(4, 7), report(4, 6)) == 5


def test_replicas_whose_sessions_find_room_elsewhere_go_once_all_have_reported_and_nobody_waits() -> None:
    controller = Controller(Role.LEADS)
    controller.at(0, report(16))
    assert controller.asked == 5
    running = [report(3), report(0), report(1), report(0)]
    assert [controller.at(now, *running, None) for now in (10, 100)] == [5, 5]
    waited = {**report(1), "turned_away": 1.0}
    assert controller.at(115, *([waited] * 5)) == 5, "every one has turned somebody away"
    assert controller.at(200, *running, report(1)) == 2, "five sessions and a quarter more"
    assert controller.at(210, report(3), report(2)) == 2, "never below the load"


def test_of_gateways_only_the_newest_without_sessions_go_and_none_that_has_not_reported() -> None:
    controller = Controller(Role.FRONTS, "Gateway")
    controller.at(0, report(16))
    assert controller.asked == 5
    running = [report(3), report(0), report(1), report(0)]
    assert [controller.at(now, *running, None) for now in (10, 100, 110)] == [5, 5, 5]
    assert controller.at(120, *running, report(0)) == 3
    assert controller.at(130, *running[:3]) == 3, "the newest of these holds a session"


def test_a_draining_replica_is_replaced() -> None:
    controller = Controller(Role.LEADS)
    controller.at(0, report(6))
    assert controller.asked == 2
    assert controller.at(10, report(3, draining=True), report(3)) == 3


def test_the_other_stages_follow_the_denoisers_of_every_pool() -> None:
    leader, gold = Controller(Role.LEADS), Controller(Role.LEADS, "Denoiser-gold")
    follower, decoder = Controller(Role.FOLLOWS, "AudioEncoder", 8), Controller(Role.HOLDS, "VaeDecoder", 8)
    leader.at(0, report(20)), gold.at(0, report(12))
    assert follower.at(0, {}) == 5 == decoder.at(0, report(3))
    leader.at(100, report(0)), gold.at(100, report(4))
    assert follower.at(100, *[{}] * 5) == 1, "any of them may go"
    assert decoder.at(100, *[report(0), report(2), report(0), report(0), report(0)]) == 1, "whose session can leave"


def test_a_deployment_that_tells_nothing_more_is_forgotten() -> None:
    told = DemandBoard()
    told.tell("liveact", "Denoiser", 5, 0)
    told.tell("other", "Denoiser", 7, 0)
    told.tell("liveact", "Denoiser-gold", 2, 40)
    assert [told.sessions("liveact", now) for now in (50, 61, 101)] == [7, 2, 0]


CONTROLLER = """
import base64, pickle, sys
from liveact_services.placement import board
leads, follows = (pickle.loads(base64.b64decode(text))(**{"rules": {"max_replicas": 3}, "per_replica": 4, "role": role})
                  for text, role in zip(sys.argv[1:], ("leads", "follows")))
class Context:
    current_time, app_name, deployment_name, target_num_replicas, running_replicas, policy_state = 1.0, "a", "D", 1, ["r"], {}
    raw_metrics = {"held": {"r": [type("Point", (), {"value": 8.0})]}}
print(leads(Context())[0], follows(Context())[0], board.BOARD.sessions("a", 1.0))
"""


def test_policies_that_were_pickled_apart_meet_in_the_controllers_process() -> None:
    configs = [autoscaling_config(ScalingRules(**RULES), 4, role, 1) for role in (Role.LEADS, Role.FOLLOWS)]
    sent = [base64.b64encode(config.policy.get_serialized_policy_def() or b"").decode() for config in configs]
    run = subprocess.run(
        [sys.executable, "-c", CONTROLLER, *sent], capture_output=True, text=True, check=False, timeout=120
    )
    assert run.stdout.split() == ["3", "3", "8.0"], run.stderr
