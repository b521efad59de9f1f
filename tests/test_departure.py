"""Sessions leave a cluster as fast as another has room for them, and no faster."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from liveact_services.errors import ServiceError
from liveact_services.gateway import departure
from liveact_services.gateway.departure import AT_A_TIME, Departure
from liveact_services.sessions import Database
from liveact_services.sessions.clusters import MOST, Clusters

pytest_plugins = ["session_fixtures"]


@dataclass
class Live:
    """What a Gateway has of a session, as far as it matters here."""

    name: str
    pool: str = "default"
    moveable: bool = True
    told: list[str] = field(default_factory=list)

    @property
    def spec(self) -> Any:
        return SimpleNamespace(session=self.name, pool=self.pool)

    async def depart(self, error: ServiceError) -> None:
        self.told.append(error.reason)


def gateway(database: Database, cluster: str, live: list[Live], **room: float) -> Departure:
    return Departure(Clusters(database), cluster, lambda: live, lambda: room)  # type: ignore[arg-type, return-value]


def gone(live: list[Live]) -> list[str]:
    return [one.name for one in live if one.told]


async def test_they_go_by_few_and_only_once_they_are_asked_to(database: Database) -> None:
    live = [Live(str(number)) for number in range(6)]
    old, new = gateway(database, "old", live, default=3), gateway(database, "new", [], default=10)
    await new.look()
    await old.look()
    assert gone(live) == []
    await Clusters(database).leave("old")
    await new.look()
    await old.look()
    assert gone(live) == [str(number) for number in range(AT_A_TIME)]
    await old.look()
    assert gone(live) == [str(number) for number in range(6)]
    await old.look()
    assert [one.told for one in live] == [["SHUTTING_DOWN"]] * 6, "each is told once, for a while"


async def test_as_many_go_as_there_is_room_for_whoever_asks(database: Database) -> None:
    clusters = Clusters(database)
    lives = [[Live(f"{gateway}{number}") for number in range(5)] for gateway in "ab"]
    olds = [gateway(database, "old", live) for live in lives]
    await clusters.leave("old")
    for old in olds:
        await old.look()
    assert gone(lives[0] + lives[1]) == [], "nobody has said that there is room"
    await gateway(database, "new", [], default=5.9).look()
    for old in olds:
        await old.look()
    assert [len(gone(live)) for live in lives] == [4, 1]
    await gateway(database, "new", [], default=0.4).look()
    await olds[0].look()
    assert len(gone(lives[0])) == 4


async def test_pools_are_apart(database: Database) -> None:
    live = [Live("a"), Live("b", "gold"), Live("c"), Live("d", "silver")]
    await Clusters(database).leave("old")
    await gateway(database, "new", [], default=1, gold=3, silver=float("inf")).look()
    await gateway(database, "old", live).look()
    assert gone(live) == ["a", "b", "d"]
    assert await Clusters(database).take("silver", 10**9) == MOST - 1


async def test_one_that_came_back_is_told_again_later(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    live = [Live("a"), Live("rests", moveable=False)]
    await Clusters(database).leave("old")
    await gateway(database, "new", [], default=100).look()
    old = gateway(database, "old", live)
    await old.look()
    await old.look()
    assert [len(one.told) for one in live] == [1, 0]
    monkeypatch.setattr(departure, "AGAIN_S", 0.0)
    await old.look()
    assert [len(one.told) for one in live] == [2, 0]


async def test_a_cluster_that_serves_again_keeps_its_sessions_and_has_room(database: Database) -> None:
    clusters, live = Clusters(database), [Live("a")]
    old = gateway(database, "old", live, default=7)
    await clusters.leave("old")
    await old.look()
    await clusters.leave("old", False)
    await old.look()
    assert gone(live) == []
    assert await clusters.take("default", 9) == 7


async def test_an_offer_lapses(database: Database) -> None:
    clusters = Clusters(database)
    await clusters.offer({"default": 4})
    assert 0 < await database.client.ttl(database.key("room")) <= 10
    await database.client.delete(database.key("room"))
    assert await clusters.take("default", 1) == 0
