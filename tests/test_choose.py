"""The placement decision over plain values, and the index of a large fleet, which decides the same."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from liveact_services.placement.choose import MOST_ASKED, MOST_REFUSALS, ReplicaView, choose
from liveact_services.placement.fleet import Fleet
from liveact_services.placement.pins import NoReplica, Pin, ReplicaGone


def test_a_new_session_goes_to_the_oldest_replica_with_room() -> None:
    old, middle, young = ReplicaView("o", 1, 2, 2), ReplicaView("m", 2, 1, 2), ReplicaView("y", 3, 0, 2)
    assert choose(Pin("s"), [young, old, middle]) == ["m", "y", "o"], "what looks full comes last: the view may be late"
    assert choose(Pin("s", None, ("m",)), [young, old, middle]) == ["y", "o"]
    assert choose(Pin("s"), [ReplicaView("unknown age", float("inf")), old]) == ["unknown age", "o"]


def test_only_those_with_room_for_its_size_are_asked_first() -> None:
    views = [
        ReplicaView("small units", 1, 5, 8, unit=1.0), ReplicaView("large units", 2, 1, 2, unit=4.0),
        ReplicaView("empty and too small", 3, 0, 2, unit=1.0),
    ]  # fmt: skip
    fleet = Fleet()
    for view in views:
        fleet.add(view)
    for size, expected in (
        (1.0, "small units"),
        (3.0, "small units"),
        (4.0, "large units"),
        (8.0, "empty and too small"),
    ):
        pin = Pin.parse(str(Pin("s", size=size)))
        assert pin == Pin("s", size=size)
        assert choose(pin, views)[0] == fleet.choose(pin) == expected, "an empty one has all the room it can have"
    fleet.update("large units", held=1.5, unit=8.0)
    assert fleet.choose(Pin("s", size=4.0)) == "large units"


def test_the_more_have_refused_a_session_the_more_room_the_next_has() -> None:
    views = [ReplicaView(f"r{n}", n, 3 if n < 6 else 2, 4) for n in range(8)] + [ReplicaView("empty", 8, 0, 2)]
    asked: list[str] = []
    while len(asked) < len(views):
        asked.append(choose(Pin("costly", None, tuple(asked)), views)[0])
    assert asked == ["r0", "r1", "r2", "r3", "r6", "r7", "empty", "r4", "r5"], (
        "an empty one has all the room it can have"
    )


def test_in_a_large_fleet_few_that_look_full_are_asked_and_not_the_same_for_everybody() -> None:
    views = [ReplicaView(f"r{n}", n, 4, 4) for n in range(100)]
    firsts = set()
    for session in map(str, range(20)):
        asked: list[str] = []
        for _ in range(MOST_ASKED):
            asked.append(choose(Pin(session, None, tuple(asked)), views)[0])
        with pytest.raises(NoReplica, match=f"{MOST_ASKED} replicas have refused the session"):
            choose(Pin(session, None, tuple(asked)), views)
        assert len(set(asked)) == MOST_ASKED
        firsts.add(asked[0])
    assert len(firsts) > 10
    views.append(ReplicaView("roomy", 100, 3, 4))
    assert choose(Pin("s", None, tuple(asked)), views) == ["roomy"]


def test_who_was_refused_in_a_large_fleet_does_not_stand_in_line_with_all_others() -> None:
    def asked(replicas: int, session: str) -> list[str]:
        views = [ReplicaView(f"r{n:04}", n, 0, 64) for n in range(replicas)]
        found: list[str] = []
        for _ in range(6):
            found.append(choose(Pin(session, None, tuple(found)), views)[0])
        return found

    sessions = [str(number) for number in range(20)]
    by_age = [f"r{n:04}" for n in range(6)]
    assert all(asked(100, session) == by_age for session in sessions), "a small fleet is filled by age"
    large = [asked(2000, session) for session in sessions]
    assert {found[0] for found in large} == {"r0000"}, "the oldest is asked first by everybody"
    assert all(len(set(found)) == 6 for found in large)
    assert len({found[-1] for found in large}) > 10


def test_a_session_that_many_have_refused_asks_no_more() -> None:
    views = [ReplicaView(f"r{n}", n, 3, 4) for n in range(1000)]
    fleet, asked = Fleet(), []
    for view in views:
        fleet.add(view)
    for _ in range(MOST_REFUSALS):
        pin = Pin("large", None, tuple(asked))
        asked.append(fleet.choose(pin))
        assert asked[-1] == choose(pin, views)[0]
    assert len(set(asked)) == MOST_REFUSALS
    for refused in (fleet.choose, lambda pin: choose(pin, views)):
        with pytest.raises(NoReplica, match=f"{MOST_REFUSALS} replicas have refused the session"):
            refused(Pin("large", None, tuple(asked)))


def test_a_draining_replica_serves_its_own_sessions_and_no_new_ones() -> None:
    draining, other = ReplicaView("d", 1, 1, 4, draining=True), ReplicaView("o", 2, 4, 4)
    assert choose(Pin("s", "d"), [draining, other]) == ["d"]
    assert choose(Pin("new"), [draining, other]) == ["o"]
    with pytest.raises(NoReplica):
        choose(Pin("new"), [draining])


def test_pools_are_apart() -> None:
    views = [ReplicaView("a", 1), ReplicaView("b", 2, pool="gold")]
    assert (choose(Pin("s"), views), choose(Pin("s"), views, pool="gold")) == (["a"], ["b"])
    with pytest.raises(NoReplica):
        choose(Pin("s"), views, pool="silver")


def test_what_cannot_be_served_fails_at_once() -> None:
    with pytest.raises(ReplicaGone, match="replica r no longer serves"):
        choose(Pin("s", "r"), [ReplicaView("other", 1)])
    with pytest.raises(NoReplica):
        choose(Pin("s", None, ("a",)), [ReplicaView("a", 1)])
    with pytest.raises(NoReplica):
        choose(Pin("s"), [])


class FleetAndList(RuleBasedStateMachine):
    """The index beside a plain list of views: the same answers, whatever happens to the fleet."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet()
        self.views: dict[str, ReplicaView] = {}
        self.born = 0

    @rule(count=st.integers(1, 9), capacity=st.sampled_from([1.0, 4.0]))
    def start(self, count: int, capacity: float) -> None:
        for _ in range(count):
            self.born += 1
            view = ReplicaView(f"r{self.born}", self.born // 3, 0.0, capacity)
            if self.views and view.age_order < max(v.age_order for v in self.views.values()):
                with pytest.raises(ValueError, match="order of their age"):
                    self.fleet.add(view)
            else:
                self.fleet.add(view)
                self.views[view.id] = view

    @precondition(lambda self: self.views)
    @rule(data=st.data(), held=st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), draining=st.booleans())
    def hear(self, data: st.DataObject, held: float, draining: bool) -> None:
        before = self.views[data.draw(st.sampled_from(sorted(self.views)))]
        self.fleet.update(before.id, held=held, draining=draining)
        self.views[before.id] = ReplicaView(before.id, before.started_at, held, before.capacity, draining)

    @precondition(lambda self: self.views)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        replica = data.draw(st.sampled_from(sorted(self.views)))
        self.fleet.remove(replica)
        del self.views[replica]
        with pytest.raises(ReplicaGone):
            self.fleet.choose(Pin("s", replica))

    @rule(session=st.sampled_from("abc"))
    def place(self, session: str) -> None:
        """One after the other is asked and refuses."""
        refused: tuple[str, ...] = ()
        while True:
            pin = Pin(session, None, refused)
            try:
                expected = choose(pin, self.views.values())[0]
            except NoReplica:
                with pytest.raises(NoReplica):
                    self.fleet.choose(pin)
                return
            chosen = self.fleet.choose(pin)
            if self.views[expected].has_room(1):
                assert chosen == expected
            else:
                # Of those that look full any will do, as long as it would be asked at all.
                assert chosen in choose(pin, self.views.values())
            refused = (*refused, chosen)

    @invariant()
    def counts_are_right(self) -> None:
        assert len(self.fleet) == len(self.views)
        assert self.fleet.used == pytest.approx(sum(v.held / v.capacity for v in self.views.values()))
        assert self.fleet.draining == sum(v.draining for v in self.views.values())
        newest = sorted(self.views.values(), key=lambda v: v.age_order, reverse=True)
        assert list(self.fleet.newest_first()) == newest
        idle = next((n for n, v in enumerate(newest) if v.held), len(newest))
        assert self.fleet.idle_newest() == idle


def test_the_index_of_a_fleet_chooses_as_the_plain_list_does() -> None:
    run_state_machine_as_test(FleetAndList, settings=settings(max_examples=40, stateful_step_count=40, deadline=None))


@given(st.integers(1, 70))
@settings(max_examples=30, deadline=None)
def test_the_last_replica_with_room_is_found_however_many_are_full(count: int) -> None:
    fleet = Fleet()
    for number in range(count):
        fleet.add(ReplicaView(f"{number:03}", number, 1, 1))
    assert not fleet.view(fleet.choose(Pin("s"))).has_room(1)
    for number in range(count):
        fleet.update(f"{number:03}", held=0)
        assert fleet.choose(Pin("s")) == f"{number:03}"
        fleet.update(f"{number:03}", held=1)


def test_a_decision_costs_about_the_same_in_a_fleet_a_hundred_times_as_large() -> None:
    def cost(replicas: int) -> float:
        fleet = Fleet()
        for number in range(replicas):
            fleet.add(ReplicaView(f"{number:06}", number, float(number % 50 != 49), 1))
        best = float("inf")
        for _ in range(7):
            began = time.process_time()
            for _ in range(300):
                fleet.update(fleet.choose(Pin("s")), held=0)
            best = min(best, time.process_time() - began)
        return best

    assert cost(10_000) < 5 * cost(100), "a sort or a scan would cost a hundred times as much"
