"""How many replicas: the pure decision, step by step and against every sequence of observations."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from liveact_services.placement.autoscaling import Decision, Observation, ScalingRules, ScalingState, carried, decide

RULES = ScalingRules(
    max_replicas=50, head_room=0.25, down_after_s=60, start_s=0, min_replicas=2, sessions_per_replica=4
)


class Stage:
    """A stage on a clock, which does at once what is decided."""

    def __init__(self, rules: ScalingRules = RULES, asked: int = 2) -> None:
        self.rules, self.asked, self.now, self.state = rules, asked, 0.0, ScalingState()

    def at(self, now: float, admitted: float, waiting: float = 0, **seen: int) -> Decision:
        self.now = now
        observation = Observation(now, self.asked, admitted, waiting, 4, **seen)
        decision, self.state = decide(self.rules, observation, self.state)
        self.asked = decision.target
        return decision


def test_there_is_room_for_what_is_held_and_what_waits_and_some_more() -> None:
    stage = Stage()
    assert stage.at(0, admitted=8).target == math.ceil(8 * 1.25 / 4) == 3
    assert stage.at(10, admitted=12, waiting=20).target == 10
    assert stage.at(20, admitted=500).target == 50, "never beyond the maximum"


def test_fewer_are_asked_for_only_after_a_while_and_only_by_those_that_hold_nothing() -> None:
    stage = Stage()
    stage.at(0, admitted=32)
    assert stage.asked == 10
    for now in range(10, 60, 10):
        assert stage.at(now, admitted=16, idle_newest=9) == Decision(10, 0, 16)
    decision = stage.at(60, admitted=16, idle_newest=3)
    assert (decision.target, decision.surplus) == (7, 2), "five are wanted: three idle ones go, two are to be drained"
    assert stage.at(70, admitted=16, idle_newest=2).target == 5
    assert stage.at(200, admitted=16).target == 5
    assert stage.at(210, admitted=0, idle_newest=5) == Decision(5, 0, 0), "five were wanted until just now"
    assert stage.at(260, admitted=0, idle_newest=5).target == 2, "never below the minimum"


def test_a_replica_carries_what_was_measured_and_never_more_than_it_may() -> None:
    assert carried(held=6, used=1.5, most=8) == 4
    assert carried(held=2, used=0.1, most=8) == 8
    assert carried(held=0, used=0, most=8) == 8
    assert carried(held=5, used=0, most=8) == 8, "nobody has told yet"


def test_growth_that_chance_explains_starts_nothing() -> None:
    stage = Stage(RULES.model_copy(update={"start_s": 300.0, "trend_s": 600.0}))
    stage.at(0, admitted=100)
    assert stage.at(600, admitted=114).demand == 114
    assert stage.at(610, admitted=200).demand > 220


def test_a_valley_shorter_than_the_hysteresis_moves_nothing() -> None:
    stage = Stage()
    for now in range(0, 1000, 10):
        stage.at(now, admitted=4 if now % 50 == 10 else 32, idle_newest=9)
        assert stage.asked == 10


def test_a_slow_decline_is_followed_one_window_behind() -> None:
    stage = Stage(asked=25)
    for now in range(0, 1000, 10):
        stage.at(now, admitted=80 * (1 - now / 1000), idle_newest=25)
        if now >= 60:
            window = 80 * (1 - (now - 50) / 1000)
            assert stage.asked == max(2, math.ceil(window * 1.25 / 4 - 1e-9))


def test_more_are_started_only_when_they_were_wanted_long_enough() -> None:
    stage = Stage(RULES.model_copy(update={"up_after_s": 30.0}))
    assert [stage.at(now, admitted=16).target for now in (0, 10, 20, 30)] == [2, 2, 2, 5]
    stage.at(40, admitted=16)
    assert [stage.at(50, admitted=40).target, stage.at(60, admitted=16).target, stage.at(70, admitted=40).target] == [
        5, 5, 5,
    ], "the wish that was given up in between begins anew"  # fmt: skip


def test_growth_is_followed_as_far_ahead_as_a_replica_takes_to_start() -> None:
    rules = RULES.model_copy(update={"start_s": 300.0, "trend_s": 600.0, "head_room": 0.0})
    stage = Stage(rules)
    for now in range(0, 1210, 10):
        decision = stage.at(now, admitted=now / 10)
    # One more every 10 s: 30 are due within the 300 s.
    assert decision.demand == pytest.approx(120 + 30, rel=0.1), "less what chance may have added"
    for now in range(1210, 3000, 10):
        decision = stage.at(now, admitted=120)
    assert decision.demand == 120
    assert stage.at(3010, admitted=20).demand == 20, "a decline is not gone on with"


def test_replicas_that_drain_are_replaced_and_count_against_the_maximum() -> None:
    stage = Stage(asked=10)
    assert stage.at(0, admitted=32, draining=4).target == 14
    stage = Stage(RULES.model_copy(update={"max_replicas": 12}), asked=10)
    assert stage.at(0, admitted=32, draining=4).target == 12


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"min_replicas": 3, "max_replicas": 2}, "max_replicas 2 is below min_replicas 3: accepted is as many or more"),
        ({"max_replicas": 2, "min_replicas": 0}, "greater than or equal to 1"),
        ({}, "max_replicas"),
        ({"max_replicas": 2, "headroom": 1}, "headroom"),
        ({"max_replicas": 2, "head_room": -0.1}, "head_room"),
        ({"max_replicas": 2, "trend_s": 0}, "trend_s"),
    ],
)
def test_wrong_rules_are_refused_naming_what_is_accepted(fields: dict[str, float], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        ScalingRules(**fields)  # type: ignore[arg-type]


rules = st.builds(
    ScalingRules,
    min_replicas=st.integers(1, 5), max_replicas=st.integers(5, 40), head_room=st.floats(0, 1),
    up_after_s=st.sampled_from([0.0, 30.0]), down_after_s=st.sampled_from([0.0, 60.0]),
    start_s=st.floats(0, 600), trend_s=st.floats(1, 600),
)  # fmt: skip
steps = st.lists(
    st.tuples(st.floats(0, 60), st.floats(0, 300), st.floats(0, 50), st.integers(0, 5), st.integers(0, 40)),
    min_size=1, max_size=40,
)  # fmt: skip


@given(rules, steps)
@settings(max_examples=150, deadline=None)
def test_whatever_is_seen_the_decision_keeps_its_bounds_and_takes_no_occupied_replica(
    rules: ScalingRules, steps: list[tuple[float, float, float, int, int]]
) -> None:
    now, asked, state = 0.0, rules.min_replicas, ScalingState()
    for after, admitted, waiting, draining, idle in steps:
        now += after
        seen = Observation(now, asked, admitted, waiting, 4, min(draining, asked), min(idle, asked))
        decision, state = decide(rules, seen, state)
        assert asked - seen.idle_newest <= decision.target <= rules.max_replicas
        assert decision.target >= min(asked, rules.min_replicas)
        assert 0 <= decision.surplus <= decision.target - rules.min_replicas or decision.surplus == 0
        assert decision.demand >= admitted + waiting
        if decision.target > asked:
            assert (decision.target - 1) * 4 < decision.demand * (1 + rules.head_room) + 4 * seen.draining + 4 * 5
        assert len(state.demands) <= 12
        assert list(state.wants) == sorted(state.wants, key=lambda want: -want[1])
        asked = decision.target
