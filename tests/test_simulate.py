"""The simulated fleet: conserved, repeatable, and as good as a brute-force look at small cases says."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from liveact_services.cli.main import app
from liveact_services.placement.autoscaling import ScalingRules
from liveact_services.simulate.machines import Hardware, Machines
from liveact_services.simulate.oracle import fewest_replica_seconds
from liveact_services.simulate.report import Tally
from liveact_services.simulate.scenario import Scenario
from liveact_services.simulate.service import Service
from liveact_services.simulate.simulation import Simulation
from liveact_services.simulate.workload import DAY_S, Demand, Workload, draw

RELIABLE = Hardware(loss_mean_s=1e12, spot_share=0)
PICTURES = Demand().pictures
ROUGH = Hardware(loss_mean_s=1800, spot_share=0.5, reclaim_mean_s=1800)


def simulated(
    workload: Workload,
    hardware: Hardware = RELIABLE,
    until_s: float = 3600,
    rules: ScalingRules | None = None,
    **service: float,
) -> Tally:
    rules = rules or ScalingRules(min_replicas=2, max_replicas=50)
    return Simulation(workload, rules, hardware, Service(**service), until_s, 1).run()  # type: ignore[arg-type]


def sessions(*each: tuple[float, float, int]) -> Workload:
    """(arrives, lasts, which picture); on a replica fit four, two and one of them."""
    arrive, last, picture = (np.array(column, float) for column in zip(*each, strict=True))
    return Workload(arrive, last, picture.astype(int), np.zeros(len(each), int), np.array([1000]), PICTURES)


# ---- the workload --------------------------------------------------------------------------------------------------------------


def test_a_day_has_its_sessions_its_swing_and_its_flash_crowd() -> None:
    demand = Demand(100_000)
    workload = draw(demand, 3)
    day = workload.arrive_s[workload.arrive_s >= 0]
    assert len(day) == pytest.approx(100_000, rel=0.02)
    assert np.all(np.diff(workload.arrive_s) >= 0)
    hourly, _ = np.histogram(day, bins=24, range=(0, DAY_S))
    assert hourly[12] / hourly[0] == pytest.approx(1.6 / 0.4, rel=0.1)
    flash, _ = np.histogram(day, bins=144, range=(0, DAY_S))
    assert flash.argmax() == 90
    assert flash[90] - flash[89] == pytest.approx(2000, rel=0.15)
    assert workload.last_s.mean() == pytest.approx(720, rel=0.05)
    assert np.bincount(workload.picture) / len(workload) == pytest.approx([0.6, 0.3, 0.1], rel=0.03)
    busiest = np.bincount(workload.tenant).max() / len(workload)
    assert busiest == pytest.approx(np.bincount(workload.tenant)[0] / len(workload))
    assert len(np.unique(workload.tenant)) > 9_000


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    one, two, other = (draw(Demand(2000), seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(vars(one).values(), vars(two).values(), strict=True))
    assert not np.array_equal(one.last_s[:100], other.last_s[:100])


# ---- the oracle ----------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(-5, 30), st.integers(1, 20), st.sampled_from([1, 2, 4])), max_size=12))
@settings(max_examples=100, deadline=None)
def test_the_oracle_counts_second_by_second(each: list[tuple[int, int, int]]) -> None:
    until = 30
    by_hand = sum(
        math.ceil(sum(need for begin, last, need in each if begin <= second < begin + last) / 4)
        for second in range(until)
    )
    begin, last, need = (np.array(column, float) for column in zip(*each, strict=True)) if each else (np.zeros(0),) * 3
    assert fewest_replica_seconds(begin, begin + last, need * 0.225, 0.9, until) == pytest.approx(by_hand)


# ---- machines ------------------------------------------------------------------------------------------------------------------


def test_replicas_fill_a_node_before_another_is_asked_for_and_an_empty_node_goes() -> None:
    machines = Machines(dataclasses.replace(RELIABLE, node_start_more_s=0, replica_start_more_s=0), 1)
    placed = {replica: machines.start(replica, 10.0) for replica in range(1, 6)}
    assert [new for _, _, new in placed.values()] == [True, False, False, False, True]
    assert {ready for _, ready, _ in placed.values()} == {10 + 150 + 60}
    assert machines.nodes == 2
    machines.stop(5, placed[5][0])
    assert machines.nodes == 1
    machines.stop(2, placed[2][0])
    node, ready, new = machines.start(6, 1000.0)
    assert (node, ready, new) == (placed[1][0], 1060.0, False), "its node is there already"


# ---- the simulation ------------------------------------------------------------------------------------------------------------


def test_sessions_wait_for_the_first_replica_and_are_served_to_their_end() -> None:
    hardware = dataclasses.replace(
        RELIABLE, node_start_more_s=0, replica_start_more_s=0, node_start_s=7, replica_start_s=4
    )
    rules = ScalingRules(min_replicas=2, max_replicas=2)
    tally = simulated(sessions((0, 100, 1), (0, 50, 1), (30, 10, 2)), hardware, rules=rules)
    figures = tally.figures(0.85, 2, 4)
    assert figures["session_hours"] == pytest.approx(160 / 3600, abs=0.05)
    assert sorted(tally._waits) == [0, 15, 15], "asked at 0, 5 and 10, and ready at 11"
    assert (figures["refused"], figures["lost"], figures["migrations"]) == (0, 0, 0)
    # Two replicas for the whole hour, with two GPUs each.
    assert figures["gpu_hours"] == 4.0
    # One replica for 50 s of two halves, then for one half; and one for the large one, from 30 to 40.
    assert figures["oracle_gpu_hours"] == pytest.approx((100 + 10) * 2 / 3600, abs=0.05)


def test_who_finds_no_room_in_time_is_refused_and_who_is_beyond_the_quota_at_once() -> None:
    rules = ScalingRules(min_replicas=1, max_replicas=1)
    tally = simulated(sessions((0, 3000, 2), (0, 3000, 2)), rules=rules, patience_s=400)
    assert (tally.sessions, tally.refusals) == (2, 1)
    workload = dataclasses.replace(sessions((0, 3000, 0), (1, 3000, 0)), quota=np.array([1]))
    assert simulated(workload, rules=rules, patience_s=400).quota_refusals == 1


def test_a_lost_node_costs_few_sessions_where_there_is_room_elsewhere() -> None:
    rules, total = ScalingRules(min_replicas=20, max_replicas=400, head_room=0.5), Counter[str]()
    # Of one seed a few nodes decide.
    for seed in (5, 6, 7):
        figures = simulated(draw(Demand(20_000, hours=4), seed), ROUGH, 4 * 3600, rules).figures(0.85, 2, 4)
        assert figures["nodes_lost"] > 50
        assert figures["migrations"] > figures["nodes_lost"]
        total.update({name: figures[name] for name in ("lost", "migrations")})
    assert total["lost"] < 0.06 * total["migrations"], "a node lives for half an hour here"


@pytest.mark.parametrize("hardware", [RELIABLE, ROUGH])
@pytest.mark.parametrize("moves", [True, False])
def test_every_session_is_served_refused_or_there_at_the_end(hardware: Hardware, moves: bool) -> None:
    workload = draw(Demand(5_000, hours=3), 2)
    rules = ScalingRules(max_replicas=40)
    simulation = Simulation(workload, rules, hardware, Service(moves=moves, gathers=moves), 3 * 3600, 1)
    tally = simulation.run()
    before = int((workload.arrive_s < 0).sum())
    waiting = sum(session.began_s < 0 for session in simulation._sessions.values())
    known = len(tally._begins) + tally.refusals + tally.quota_refusals + waiting
    assert tally.sessions <= known <= tally.sessions + before
    held = {replica: one.admission.sessions for replica, one in simulation._replicas.items()}
    on_replicas = {name: replica for replica, names in held.items() for name in names}
    assert sum(map(len, held.values())) == len(on_replicas) == simulation._present, "nobody is in two places"
    assert on_replicas == {s.name: s.replica for s in simulation._sessions.values() if s.replica >= 0}
    simulation._hear(None)
    for replica, one in simulation._replicas.items():
        # Costs are measured anew with every session; by how much they differ a replica may be fuller than it would admit.
        assert one.admission.utilisation <= 0.85 * 1.05
        view = simulation._fleet.view(f"{replica:08}")
        assert (view.held, view.capacity) == one.admission.filled
    if not moves and hardware is RELIABLE:
        assert tally.migrations == 0


@cache
def day(moves: bool) -> dict[str, Any]:
    return Scenario(100, moves=moves).run()


def test_the_policy_serves_a_day_with_little_more_than_the_oracle() -> None:
    figures = day(True)
    assert figures["wait_p95_s"] <= 10
    assert figures["refused_share"] < 0.025
    assert 1 < figures["gpu_hours_ratio"] < 1.15
    assert 0.7 < figures["utilisation"] < 1
    static = figures["gpu_hours_ratio"] * (100 * 2 * 24) / figures["gpu_hours"]
    assert figures["gpu_hours_ratio"] < 0.6 * static, "a fixed fleet of that size costs far more"


def test_moving_sessions_is_what_lets_a_fleet_shrink() -> None:
    moving, staying = day(True), day(False)
    assert moving["gpu_hours_ratio"] < staying["gpu_hours_ratio"] - 0.05
    assert moving["migrations"] > staying["migrations"]


def test_the_command_gives_the_same_figures_again_and_says_them_as_json() -> None:
    runs = [CliRunner().invoke(app, ["bench", "simulate", "--quick", "--json"]) for _ in range(2)]
    assert [run.exit_code for run in runs] == [0, 0]
    one, two = (json.loads(run.stdout.splitlines()[-1]) for run in runs)
    costs = [fleet.pop("decision") for found in (one, two) for fleet in found["fleets"]]
    assert one == two
    assert one["fleets"][0]["sessions"] > 100
    assert all(cost["place_us"] > 0 and cost["scale_us"] > 0 for cost in costs)
    assert CliRunner().invoke(app, ["bench", "simulate", "--quick", "--replicas", "5"]).exit_code == 3
