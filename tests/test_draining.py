"""Emptying replicas: marked first, left by their sessions, then let go; and the command that does it."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from liveact_services import stateful
from liveact_services.cli.main import app
from liveact_services.placement import draining, pins
from liveact_services.placement.draining import Replica
from liveact_services.stateful import Stateful


class Held(Stateful):
    """A replica in this process, on what those of the service share."""

    def __init__(self, name: str, *sessions: str) -> None:
        super().__init__(capacity=4)
        self.name, self.here = name, list(sessions)

    def held(self) -> int:
        return len(self.here)

    async def sessions(self) -> list[str]:
        return list(self.here)


def named(*replicas: Held) -> list[Replica]:
    return [Replica(replica.name, "Denoiser", replica) for replica in replicas]


@pytest.fixture(autouse=True)
def _in_no_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stateful, "replica_id", lambda: "r1")


async def test_all_are_marked_before_anybody_waits_and_what_is_left_is_told() -> None:
    one, two, stays = Held("one", "a", "b"), Held("two", "c"), Held("stays", "d")
    told: list[tuple[str, int]] = []

    def tell(replica: str, held: int) -> None:
        assert one._draining
        assert two._draining
        told.append((replica, held))

    left = await draining.drain(named(one, two), told=tell)
    assert left == {"one": ["a", "b"], "two": ["c"]}
    assert told == [("one", 2), ("two", 1)]
    with pytest.raises(pins.ReplicaFull):
        one.require_room("new")
    stays.require_room("new")


async def test_it_waits_for_sessions_to_leave() -> None:
    one = Held("one", "a", "b")
    counts = []

    def told(replica: str, held: int) -> None:
        counts.append(held)
        if held:
            one.here.pop()

    assert await draining.drain(named(one), wait_s=30, poll_s=0.01, told=told) == {"one": []}
    assert counts == [2, 1, 0]
    two = Held("two", "a")
    assert await draining.drain(named(two), wait_s=0.05, poll_s=0.01) == {"two": ["a"]}


async def test_a_replica_that_went_meanwhile_holds_nothing() -> None:
    one, gone = Held("one", "a"), Held("gone", "b")

    async def sessions() -> list[str]:
        raise pins.ReplicaGone("it no longer serves")

    def told(replica: str, held: int) -> None:
        gone.sessions = sessions  # type: ignore[method-assign]

    assert await draining.drain(named(one, gone), wait_s=0.05, poll_s=0.01, told=told) == {"one": ["a"], "gone": []}


class Some(Stateful):
    """A replica that holds as many as is said."""

    count = 0

    def held(self) -> int:
        return self.count


async def test_a_replica_reports_what_it_holds_and_who_was_turned_away_lately(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(stateful.time, "monotonic", lambda: now)
    replica = Some(capacity=2)
    replica.require_room("a")
    replica.count = 2
    for session in ("b", "b", "c"):
        with pytest.raises(pins.ReplicaFull, match="r1"):
            replica.require_room(session)
    report = await replica.record_autoscaling_stats()
    assert report == {
        "held": 2.0, "used": 1.0, "waiting": 0.0, "turned_away": 2.0, "draining": 0.0, "started_at": replica.started_at,
    }  # fmt: skip
    now += pins.ASK_AGAIN_S + 0.1
    assert (await replica.record_autoscaling_stats())["turned_away"] == 0
    replica.count = 1
    assert (await replica.drain(True, True))["draining"]
    with pytest.raises(pins.ReplicaFull):
        replica.require_room("d")
    assert await replica.record_routing_stats() == {"held": 1, "capacity": 2, "unit": 1, "draining": True}
    await replica.check_health()
    replica.count = 0
    with pytest.raises(RuntimeError, match="let go"):
        await replica.check_health()
    await replica.drain(False)
    await replica.check_health()
    replica.require_room("d")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["r1", "--all"], "REPLICA and --all: accepted is one of them"),
        (["r1", "--undo", "--let-go"], "--undo goes with neither"),
        (["--wait", "3"], "no replica is named"),
    ],
)
def test_options_that_contradict_each_other_are_refused(words: list[str], told: str) -> None:
    result = CliRunner().invoke(app, ["drain", *words])
    assert (result.exit_code, told in result.stderr) == (3, True)


def test_without_a_cluster_the_command_says_so() -> None:
    result = CliRunner().invoke(app, ["drain", "--address", "127.0.0.1:1"])
    assert result.exit_code == 4
    assert "no Ray cluster at '127.0.0.1:1'" in result.stderr
