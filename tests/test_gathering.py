"""Room in one piece: who is asked to make it, who leaves for it, and what it does for a fleet."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray import serve

from liveact_services.conductor.parts import NoPlace, Part
from liveact_services.conductor.stages import Pacing
from liveact_services.denoiser.admission import GATHERED_S, GRACE_S, SETTLED_S
from liveact_services.denoiser.gathering import PLACES, Settled, who_leaves
from liveact_services.denoiser.room import Demand, Room
from liveact_services.gateway import serve_stages
from liveact_services.gateway.serve_stages import ServeGraph, StageHandles
from liveact_services.placement.choose import ReplicaView
from liveact_services.placement.departing import DepartureBoard, Listing
from liveact_services.placement.fleet import Fleet
from liveact_services.placement.gathering import GATHER_FROM_S, MAKERS, PIECES, makers
from liveact_services.placement.pins import Pin, ReplicaFull
from liveact_services.simulate.scenario import Scenario
from stage_fixtures import session_spec
from test_admission import Replica

SMALL = 512 * 512 * 20 / 1e6
ROOM = [SMALL] * PLACES


def demand(share: float) -> Demand:
    return Demand(share, 0.0)


# ---- whom the Gateway asks


def test_those_that_lack_least_are_asked_first_and_told_of_the_room_elsewhere() -> None:
    free = [("a", 1.0), ("b", 4.0), ("c", 3.0), ("d", 5.0), ("e", 0.0)]
    asked = list(makers(4.0, free))
    assert [replica for replica, _ in asked] == ["c", "a"], "those with room enough have refused for another reason"
    assert asked[0][1] == [5.0, 4.0, 1.0, 0.0]


def test_few_of_many_are_asked() -> None:
    free = [(f"r{n:03}", 1.0 + n / 1000) for n in range(200)]
    asked = list(makers(4.0, free))
    assert [replica for replica, _ in asked] == [f"r{n}" for n in range(199, 199 - MAKERS, -1)]
    assert {len(elsewhere) for _, elsewhere in asked} == {PIECES}


held = st.tuples(st.floats(0, 8), st.booleans())


@settings(max_examples=200, deadline=None)
@given(st.lists(held, max_size=40), st.integers(1, 40), st.lists(st.integers(0, 39), max_size=10))
def test_a_fleet_knows_its_roomiest(replicas: list[tuple[float, bool]], count: int, gone: list[int]) -> None:
    fleet = Fleet()
    for number, (taken, draining) in enumerate(replicas):
        fleet.add(ReplicaView(f"{number:03}", float(number), taken, 8.0, draining, unit=0.5))
    left = {f"{number:03}" for number in range(len(replicas))} - {f"{number:03}" for number in gone}
    for number in set(gone):
        if number < len(replicas):
            fleet.remove(f"{number:03}")
    views = [fleet.view(name) for name in left]
    free = sorted((v.free for v in views if not v.draining and v.free < math.inf), reverse=True)
    found = fleet.roomiest(count)
    assert [room for _, room in found] == free[:count]
    assert all(fleet.view(name).free == room for name, room in found)
    assert len({name for name, _ in found}) == len(found)


# ---- who leaves


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.floats(0.01, 0.5), max_size=6), st.floats(0.05, 0.9), st.lists(st.floats(0, 1.0), max_size=12),
    st.floats(0.5, 1.0),
)  # fmt: skip
def test_who_leaves_makes_the_room_and_none_leaves_for_nothing(
    shares: list[float], wanted: float, elsewhere: list[float], bound: float
) -> None:
    room = Room(8 - len(shares), bound - sum(shares), math.inf, len(shares))
    settled = {f"s{n}": Settled(demand(share), share) for n, share in enumerate(shares)}
    before = room.copy()
    leave = who_leaves(room, demand(wanted), settled, elsewhere)
    assert room == before
    if not leave:
        return
    for name in leave:
        room.give(settled[name].demand)
    assert room.fits(demand(wanted))
    # The last to be chosen is the smallest that is enough: without it there is not enough.
    last = room.copy()
    last.take(settled[leave[-1]].demand)
    assert not last.fits(demand(wanted))
    places = sorted(elsewhere)
    for name in sorted(leave, key=lambda n: -settled[n].size):
        tightest = next(piece for piece in places if piece + 1e-6 >= settled[name].size)
        places[places.index(tightest)] -= settled[name].size
        places.sort()


def test_the_smallest_that_is_enough_leaves_and_not_the_largest() -> None:
    settled = {
        "large": Settled(demand(0.4), 4.0),
        "middle": Settled(demand(0.3), 3.0),
        "small": Settled(demand(0.1), 1.0),
    }
    room = Room(5, 0.05, math.inf, 3)
    assert who_leaves(room, demand(0.3), settled, [9.0]) == ["middle"]
    assert who_leaves(room, demand(0.5), settled, [9.0]) == ["large", "small"]
    beside_one_that_stays = Room(4, 0.05, math.inf, 4)
    assert who_leaves(beside_one_that_stays, demand(0.9), settled, [9.0]) == [], "more than all of it"


def test_nobody_is_sent_where_there_is_no_place() -> None:
    room, settled = Room(5, 0.0, math.inf, 1), {"s": Settled(demand(0.4), 2.0)}
    assert who_leaves(room, demand(0.4), settled, []) == []
    assert who_leaves(room, demand(0.4), settled, [1.9] * 20) == []
    assert who_leaves(room, demand(0.4), settled, [2.0]) == ["s"], "of a small fleet one is enough"
    assert who_leaves(room, demand(0.4), settled, [2.0] + [1.0] * 5) == [], "of a larger one it is soon another's"
    assert who_leaves(room, demand(0.4), settled, [8.0] + [1.0] * 5) == ["s"]


# ---- what a replica promises


def filled_with_small() -> Replica:
    """Eight sessions of a tenth of the device each, in a bound of 0.85, that are no newcomers."""
    replica = Replica()
    replica.fill()
    replica.wall.now += SETTLED_S
    return replica


def test_room_that_is_made_is_kept_for_whom_it_was_made() -> None:
    replica = filled_with_small()
    large = replica.spec(side=1024)
    assert replica.admission.refusal(large) is not None
    leave = replica.admission.make_room(large, ROOM * 4)
    assert len(leave) == 8, "four times the pixels take sixteen tenths: the device has it for itself"
    for session in leave:
        replica.admission.release(session, ended=False)
    replica.past("t", [3600.0] * 20)
    assert replica.admission.refusal(replica.spec("other")) is not None, "what is free is promised"
    replica.wall.now += GATHERED_S
    assert replica.admission.refusal(large) is None


def test_who_is_about_to_leave_is_counted_on_until_it_is_late() -> None:
    replica = filled_with_small()
    replica.past("t", [3600.0] * 20)
    large = replica.spec(side=724)
    assert len(replica.admission.make_room(large, ROOM * 4)) == 4, "twice the pixels take four tenths"
    other = replica.admission.refusal(replica.spec("other", side=724))
    assert other is not None
    assert other.retry_after_s is not None
    assert other.retry_after_s > GATHERED_S, "behind the one for whom it is made"
    replica.wall.now += GATHERED_S
    soon = replica.admission.refusal(large)
    assert soon is not None
    assert soon.retry_after_s == pytest.approx(0.1), "any moment now"
    replica.wall.now += GRACE_S + 0.1
    late = replica.admission.refusal(large)
    assert late is not None
    assert late.retry_after_s is not None
    assert late.retry_after_s > 10, "they stayed"


def test_newcomers_and_their_likes_are_not_asked_to_leave() -> None:
    replica = Replica()
    replica.fill()
    large = replica.spec(side=724)
    assert replica.admission.make_room(large, ROOM) == []
    replica.wall.now += SETTLED_S
    assert replica.admission.make_room(replica.spec(), ROOM) == [], "one of their size"
    first = replica.admission.make_room(large, ROOM * 4)
    second = replica.admission.make_room(replica.spec(side=724), ROOM * 4)
    assert (len(first), len(second)) == (4, 4)
    assert not set(first) & set(second), "what leaves for one makes no room for another"


def test_a_tenant_is_made_no_more_room_than_its_share_while_others_ask() -> None:
    replica = Replica()
    replica.fill()
    replica.wall.now += SETTLED_S
    replica.past("t", [20.0] * 20)
    for tenant in ("greedy", "modest"):
        replica.refused(tenant)
    assert replica.admission.make_room(replica.spec("greedy", side=724), ROOM * 4) == [], "it stands in line already"
    fresh = replica.spec("fresh", side=724)
    assert replica.admission.make_room(fresh, ROOM * 8)


# ---- what the Gateway tells


class Full:
    """A Denoiser that has no room, and makes some if it is `willing`."""

    def __init__(self, known_s: float | None, willing: bool) -> None:
        self._known = () if known_s is None else (known_s,)
        self._willing = willing
        self.asked: list[str] = []

    async def open(self, spec: object, *conditions: object, attempt: int) -> str:
        # Serve's local mode has no router: after one refusal there is nobody else.
        if self.asked:
            from liveact_services.placement.pins import NoReplica

            raise NoReplica("the only one has refused")
        self.asked.append("open")
        raise ReplicaFull("full-1", *self._known)

    async def make_room(self, spec: object, elsewhere: list[float]) -> float | None:
        self.asked.append(f"make_room beside {elsewhere}")
        return GATHERED_S if self._willing else None

    async def expect(self, spec: object, retry_after_s: float) -> None:
        self.asked.append(f"expect in {retry_after_s:g}")

    async def text(self, *_: object) -> np.ndarray:
        return np.zeros(1)

    image = reference = text

    async def calls(self) -> list[str]:
        return self.asked


@pytest.mark.parametrize(
    ("known_s", "willing", "make_room", "told_s", "asked"),
    [
        (None, True, True, GATHERED_S, ["make_room beside [7.0]"]),
        (GATHER_FROM_S + 1, True, True, GATHERED_S, ["make_room beside [7.0]"]),
        (GATHER_FROM_S - 1, True, True, GATHER_FROM_S - 1, ["expect in 9"]),
        (30.0, False, True, 30.0, ["make_room beside [7.0]", "expect in 30"]),
        (30.0, True, False, 30.0, ["expect in 30"]),
    ],
)
async def test_a_client_is_told_of_room_that_is_made_where_it_would_wait_longer(
    monkeypatch: pytest.MonkeyPatch,
    known_s: float | None,
    willing: bool,
    make_room: bool,
    told_s: float,
    asked: list[str],
) -> None:
    application = serve.deployment(Full, name="full").bind(known_s, willing)
    handle = serve.run(application, name="full", route_prefix=None, _local_testing_mode=True)
    board = DepartureBoard()
    board.tell(serve_stages.key(handle.app_name, handle.deployment_name), Listing(free=(("x", 7.0), ("full-1", 3.0))))
    monkeypatch.setattr(serve_stages, "BOARD", board)
    graph = ServeGraph(StageHandles(handle, handle, handle, {"default": handle}, handle, handle), make_room)
    spec = session_spec(Pacing.REALTIME, session="s", width=512, height=512)
    with pytest.raises(NoPlace) as refused:
        await graph.open(Part.DENOISER, spec, np.zeros((3, 512, 512), np.float32), attempt=0, avoid="")
    assert refused.value.retry_after_s == told_s
    assert (await handle.calls.remote())[1:] == asked
    assert str(Pin("s", "full-1")) == "s@full-1"


# ---- what it is worth


def test_fewer_are_refused_by_a_fleet_that_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = {}
    for gathers in (True, False):
        refused[gathers] = [Scenario(30, hours=24.0, seed=seed, gathers=gathers).run() for seed in (1, 2)]
    with_it, without = (sum(day["refused"] for day in refused[gathers]) for gathers in (True, False))
    assert with_it < 0.9 * without
    assert all(day["told_right"] > 0.8 for day in refused[True])
    assert all(day["lost"] <= 1 for day in refused[True])
