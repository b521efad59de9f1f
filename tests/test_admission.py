"""Who is taken and who is told to come back when: measured cost, bound, history, line; then whole offered loads, simulated."""

from __future__ import annotations

from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liveact_models.timeline import block_seconds
from liveact_services.conductor.parts import Part
from liveact_services.conductor.stages import SessionSpec
from liveact_services.denoiser.admission import PATIENCE_S, UNKNOWN, Admission
from liveact_services.denoiser.costs import BlockCosts
from liveact_services.denoiser.lengths import ENOUGH, Lengths
from liveact_services.denoiser.offered import Admitted, OfferedLoad, fair_shares, jain, shared
from liveact_services.denoiser.simulation import simulated_spec
from liveact_services.gateway.serve_stages import NoRoom, _place
from liveact_services.placement.pins import ASK_AGAIN_S, NoReplica, Pin, ReplicaFull

BLOCK_S = 0.16
"""A tenth of the device at 20 frames a second."""


class Wall:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Replica:
    """An admission with what it needs, on a clock by hand."""

    def __init__(
        self, *, bound: float = 0.85, most: int = 64, memory: int = 0, block_s: float | None = BLOCK_S
    ) -> None:
        self.wall, self.costs = Wall(), BlockCosts()
        self.admission = Admission(most, bound, self.costs, lambda spec: memory, self.wall)
        self.room = float("inf")
        if block_s is not None:
            self.costs.record(512, 512, block_s)
        self._names = 0

    def spec(self, tenant: str = "t", **kind: int | bool) -> SessionSpec:
        self._names += 1
        return simulated_spec(f"s{self._names}", tenant, **kind)  # type: ignore[arg-type]

    def fill(self, tenant: str = "t", **kind: int | bool) -> list[str]:
        """As many sessions as are taken."""
        names = []
        while self.admission.refusal(spec := self.spec(tenant, **kind), self.room) is None:
            self.admission.admit(spec)
            names.append(spec.session)
            assert len(names) < 100
        return names

    def refused(self, tenant: str = "t", **kind: int | bool) -> float:
        """Somebody is refused and told to come back; gives the seconds."""
        spec = self.spec(tenant, **kind)
        refusal = self.admission.refusal(spec, self.room)
        assert refusal is not None
        assert refusal.retry_after_s is not None
        self.admission.expect(spec, refusal.retry_after_s)
        return refusal.retry_after_s

    def past(self, tenant: str, lengths: list[float]) -> None:
        """Sessions of these lengths have been."""
        for length in lengths:
            spec = self.spec(tenant, fastest=True)
            self.wall.now -= length
            self.admission.admit(spec)
            self.wall.now += length
            self.admission.release(spec.session)


# ---- what a session takes


def test_sessions_are_taken_up_to_the_bound_of_the_devices_time() -> None:
    assert len(Replica(bound=0.85).fill()) == 8
    assert len(Replica(bound=0.45).fill()) == 4
    assert len(Replica(bound=0.85).fill(fps=30)) == 5, "a higher rate needs blocks more often"
    assert len(Replica(bound=0.85).fill(side=256)) == 34, "a quarter of the pixels, nothing measured: linear"
    assert len(Replica(bound=0.85, block_s=0.016).fill(side=1024)) == 5, "four times the pixels: quadratic"


def test_the_number_of_sessions_stays_a_limit() -> None:
    replica = Replica(most=3)
    assert len(replica.fill()) == 3
    assert replica.admission.refusal(replica.spec()).why == "as many sessions as it may hold"  # type: ignore[union-attr]


def test_background_takes_no_time_and_has_a_place_and_memory_all_the_same() -> None:
    replica = Replica(most=12)
    assert len(replica.fill()) == 8
    assert len(replica.fill(fastest=True)) == 4


def test_memory_that_is_not_there_is_not_promised() -> None:
    replica = Replica(memory=100)
    replica.room = 350.0
    assert len(replica.fill()) == 3
    assert "memory" in replica.admission.refusal(replica.spec(), replica.room).why  # type: ignore[union-attr]


def test_a_device_too_slow_for_one_session_serves_one() -> None:
    replica = Replica(block_s=10.0)
    assert len(replica.fill()) == 1
    assert len(replica.fill(fastest=True)) > 0


def test_before_anything_was_measured_sessions_are_counted() -> None:
    assert len(Replica(block_s=None, most=5).fill()) == 5


def test_what_blocks_take_is_measured_again_as_they_run() -> None:
    replica = Replica()
    replica.fill()
    assert replica.admission.utilisation == pytest.approx(0.8)
    for _ in range(32):
        replica.costs.record(512, 512, BLOCK_S / 2)
    assert replica.admission.utilisation == pytest.approx(0.4)
    assert len(replica.fill()) == 9


def test_one_slow_block_in_thirty_is_left_out() -> None:
    costs = BlockCosts()
    for _ in range(31):
        costs.record(64, 64, 0.1)
    costs.record(64, 64, 60.0)
    assert costs.block_s(64, 64) == pytest.approx(0.1)


def test_who_has_gone_makes_room() -> None:
    replica = Replica()
    first = replica.fill()[0]
    replica.admission.release(first)
    replica.admission.release(first)
    assert len(replica.fill()) == 1


def test_a_replica_says_how_full_it_is_in_small_sessions_by_what_it_measured() -> None:
    replica = Replica(bound=0.85, most=64)
    assert replica.admission.filled == (0.0, 64.0), "nothing has come yet: counted"
    assert replica.admission.unit == UNKNOWN
    large, small = replica.spec(side=1024), replica.spec()
    replica.costs.record(1024, 1024, 4 * BLOCK_S)
    replica.admission.admit(large)
    assert replica.admission.filled == pytest.approx((1.0, 0.85 / 0.4)), "the smallest that came is large"
    assert replica.admission.unit == large.size == 1024 * 1024 * large.fps / 1e6
    replica.admission.admit(small)
    assert replica.admission.filled == pytest.approx((5.0, 8.5))
    assert replica.admission.unit == small.size
    replica.admission.release(large.session)
    assert replica.admission.filled == pytest.approx((1.0, 8.5))
    few = Replica(most=4)
    few.admission.admit(few.spec())
    assert few.admission.filled == pytest.approx((1.0, 4.0)), "of time and number the scarcer counts"


def test_who_was_told_to_come_back_counts_as_waiting_until_then() -> None:
    replica, held, told = full_with_somebody_expected()
    assert replica.admission.waiting == pytest.approx(0.1 / 0.85), "in full replicas"
    replica.wall.now += told
    replica.admission.release(held[0])
    came = replica.spec("patient")
    assert replica.admission.refusal(came) is None
    replica.admission.admit(came)
    assert replica.admission.waiting == 0
    slow = Replica()
    slow.past("t", [10 * PATIENCE_S] * 9)
    slow.fill()
    slow.refused()
    assert slow.admission.waiting == pytest.approx(0.1 / 0.85), "told to come much later: it counts for a while"
    slow.wall.now += PATIENCE_S
    assert slow.admission.waiting == 0


def test_a_session_that_went_on_elsewhere_is_as_old_as_it_is() -> None:
    replica = Replica()
    replica.past("t", [30.0] * 9)
    while replica.admission.refusal(spec := replica.spec()) is None:
        replica.admission.admit(spec, age_s=25.0)
    assert replica.refused() == pytest.approx(5.0, abs=0.1)


# ---- when there will be room


def test_a_replica_without_a_past_tells_no_time() -> None:
    replica = Replica()
    replica.fill()
    refusal = replica.admission.refusal(replica.spec())
    assert refusal is not None
    assert refusal.retry_after_s is None


def test_a_tenants_own_past_counts_before_everybodys() -> None:
    lengths = Lengths()
    for _ in range(ENOUGH):
        lengths.record("short", 10.0)
        lengths.record("long", 100.0)
    outlook = lengths.outlook()
    assert outlook.remaining("short", 4.0) == [6.0] * ENOUGH
    assert outlook.remaining("new", 4.0) == [6.0] * ENOUGH + [96.0] * ENOUGH
    assert outlook.remaining("short", 20.0) == [1.0, 2.0, 4.0], "older than all before it"


def test_long_sessions_that_have_not_ended_yet_are_not_forgotten() -> None:
    lengths = Lengths()
    for _ in range(ENOUGH):
        lengths.record("t", 10.0)
    lengths.record("t", 100.0)
    young = [lengths.outlook(running).remaining("t", 0.0) for running in ([], [("t", 50.0)] * 9, [("other", 50.0)] * 9)]
    assert [of.count(100.0) for of in young] == [1, 10, 1]
    assert lengths.outlook([("t", 200.0)]).remaining("t", 150.0) == [pytest.approx(70.0)], "older than all that ended"


known = st.floats(20.0, 50.0)


@given(length=known, ages=st.lists(st.floats(0.0, 1.0), min_size=8, max_size=8), spread=st.floats(0.0, 0.01))
@settings(deadline=None, max_examples=60)
def test_the_time_told_is_when_a_place_gets_free(length: float, ages: list[float], spread: float) -> None:
    """Sessions of a known length, begun at any moments: who comes back when told finds a place, and found none long before."""
    replica = Replica()
    replica.past("t", [length * (1 + spread * (n - 4) / 4) for n in range(9)])
    for age in sorted(ages, reverse=True):
        replica.wall.now -= age * length * 0.9
        replica.admission.admit(replica.spec())
        replica.wall.now += age * length * 0.9
    ends = sorted(length * (1 - age * 0.9) for age in ages)
    told = replica.refused()
    assert abs(told - ends[0]) <= max(0.2 * told, 0.1)


@given(length=known, waiting=st.integers(1, 8))
@settings(deadline=None, max_examples=40)
def test_those_who_wait_are_told_one_place_after_the_other(length: float, waiting: int) -> None:
    replica = Replica()
    replica.past("t", [length] * 9)
    for _ in range(8):
        replica.admission.admit(replica.spec())
        replica.wall.now += length / 10
    ends = [length - length / 10 * (8 - n) for n in range(8)]
    told = [replica.refused() for _ in range(waiting)]
    for ours, truth in zip(told, ends, strict=False):
        assert abs(ours - truth) <= max(0.2 * truth, 0.1)


def full_with_somebody_expected() -> tuple[Replica, list[str], float]:
    replica = Replica()
    replica.past("t", [30.0] * 9)
    held = []
    for _ in range(8):
        held.append(replica.spec())
        replica.admission.admit(held[-1])
        replica.wall.now += 1.0
    return replica, [spec.session for spec in held], replica.refused("patient")


def test_a_newcomer_does_not_take_the_place_of_who_was_told_to_come() -> None:
    replica, held, told = full_with_somebody_expected()
    replica.wall.now += told
    replica.admission.release(held[0])
    assert replica.admission.refusal(replica.spec("newcomer")) is not None
    came = replica.spec("patient")
    assert replica.admission.refusal(came) is None
    replica.admission.admit(came)
    replica.admission.release(held[1])
    assert replica.admission.refusal(replica.spec("newcomer")) is None, "nobody is expected any more"


def test_a_place_is_not_kept_for_ever() -> None:
    replica, held, told = full_with_somebody_expected()
    replica.wall.now += told + 2.5
    replica.admission.release(held[0])
    assert replica.admission.refusal(replica.spec("newcomer")) is None


def test_who_was_told_to_come_much_later_is_not_counted_on() -> None:
    replica = Replica()
    replica.past("t", [10 * PATIENCE_S] * 9)
    replica.fill()
    assert replica.refused() == replica.refused() > PATIENCE_S


def test_a_tenant_that_asks_all_the_time_keeps_nobody_out() -> None:
    """Its client asks ten times a second, whatever it is told; another tenant's comes when told, and goes on after that."""
    replica, held, told = full_with_somebody_expected()
    replica.admission.release(held.pop(0))
    replica.admission.admit(replica.spec("patient"))
    line = [replica.refused("loud") for _ in range(100)]
    counted = [wait for wait in line if wait <= PATIENCE_S]
    assert len(counted) <= 9, "alone it is promised what there is"
    for _ in range(50):
        replica.wall.now += 0.1
        replica.refused("loud", fps=24)
    told = replica.refused("quiet")
    assert told <= PATIENCE_S
    replica.wall.now += told
    for session in held[:4]:
        replica.admission.release(session)
    assert replica.admission.refusal(replica.spec("quiet")) is None


def test_what_is_promised_is_shared_by_weight() -> None:
    replica = Replica(block_s=BLOCK_S / 4)
    replica.past("t", [30.0] * 9)
    replica.fill()
    promised = {"bronze": 0, "gold": 0}
    for _ in range(60):
        for tenant, weight in (("bronze", 1.0), ("gold", 3.0)):
            spec = replica.spec(tenant, weight=weight)
            refusal = replica.admission.refusal(spec)
            assert refusal is not None
            assert refusal.retry_after_s is not None
            promised[tenant] += refusal.retry_after_s <= PATIENCE_S
            replica.admission.expect(spec, refusal.retry_after_s)
    assert promised["gold"] / promised["bronze"] == pytest.approx(3, rel=0.15)
    assert sum(promised.values()) == pytest.approx(0.85 / 0.025, abs=2), "together what the replica holds"


async def test_a_client_is_told_of_the_replica_that_has_room_first() -> None:
    waits = {"a": (40.0,), "b": (7.5,), "c": ()}
    asked = []

    async def call(key: str) -> str:
        refused = Pin.parse(key).refused
        asked.append(refused)
        if len(refused) == 3:
            raise NoReplica
        replica = "abc"[len(refused)]
        raise ReplicaFull(replica, *waits[replica])

    with pytest.raises(NoRoom) as raised:
        await _place(Part.DENOISER, Replica().spec(), "", call)
    assert asked == [(), ("a",), ("a", "b"), ("a", "b", "c")]
    assert (raised.value.first, raised.value.retry_after_s) == ("b", 7.5)
    assert NoRoom({"c": None}).retry_after_s == ASK_AGAIN_S


# ---- offered loads, simulated


@lru_cache(maxsize=4)
def offered(load: float) -> Admitted:
    return OfferedLoad(load, seed=3).run(240)


@pytest.mark.parametrize("load", [1.0, 2.0, 4.0])
def test_whatever_is_offered_those_admitted_are_in_time(load: float) -> None:
    outcome = offered(load)
    assert outcome.due_blocks > 800
    assert outcome.in_time_share >= 0.99
    assert outcome.fairness >= 0.98
    assert outcome.utilisation <= 0.88
    if load > 1:
        assert outcome.utilisation >= 0.65, "places must not stay empty"
        assert outcome.refused > outcome.admitted


@pytest.mark.parametrize("load", [2.0, 4.0])
def test_most_of_those_who_come_back_when_told_are_let_in_though_others_push(load: float) -> None:
    outcome = offered(load)
    assert outcome.came_back >= 20
    assert outcome.retry_right >= 0.9


@pytest.mark.parametrize("load", [1.0, 2.0, 4.0])
def test_a_load_that_nobody_was_refused_is_shared_by_weight(load: float) -> None:
    outcome = shared(load, seed=5, seconds=200)
    assert outcome.deviation <= 0.1
    assert outcome.fairness >= 0.98
    assert sum(outcome.shares.values()) >= 0.95


def test_the_same_seed_gives_the_same_run() -> None:
    assert OfferedLoad(2.0, seed=9).run(60) == OfferedLoad(2.0, seed=9).run(60)


def test_fair_shares_give_what_one_does_not_want_to_the_others_by_weight() -> None:
    assert fair_shares({"a": 1, "b": 1}, {"a": 1, "b": 3}) == {"a": 0.25, "b": 0.75}
    assert fair_shares({"a": 0.1, "b": 1, "c": 1}, {"a": 5, "b": 1, "c": 2}) == pytest.approx(
        {"a": 0.1, "b": 0.3, "c": 0.6}
    )
    assert fair_shares({"a": 0.1, "b": 0.2}, {"a": 1, "b": 1}) == {"a": 0.1, "b": 0.2}


def test_jains_index_knows_equal_from_unequal() -> None:
    assert jain([2.0, 2.0, 2.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)


def test_a_blocks_time_at_this_rate_is_a_tenth_of_the_device() -> None:
    assert BLOCK_S / block_seconds(1, 20) == pytest.approx(0.1)
