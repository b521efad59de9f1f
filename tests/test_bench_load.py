"""`liveact bench load`: the table, its JSON, and that it says no when it should."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from typer.testing import CliRunner

from liveact.v1 import avatar_pb2 as pb
from liveact_services.cli.bench.load.live import LiveRow, LiveTable, held_at_once
from liveact_services.cli.bench.load.offer import Caller
from liveact_services.cli.bench.load.simulated import LoadTable
from liveact_services.cli.main import app
from liveact_services.client.viewer_clock import ViewerClock
from liveact_services.denoiser.offered import Admitted, Shared


def test_it_prints_a_table_for_people_and_one_object_for_scripts() -> None:
    run = CliRunner().invoke(app, ["bench", "load", "--seconds", "600", "--seed", "3", "--json"])
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["passed"] is True
    assert [row["load"] for row in result["admitted"]] == [row["load"] for row in result["shared"]] == [1.0, 2.0, 4.0]
    for row in result["admitted"]:
        assert row["blocks"] > 100
        assert row["in_time"] >= 0.99
        assert row["jain"] >= 0.98
    for row in result["shared"]:
        assert abs(sum(row["fair"].values()) - 1) < 0.01
        assert row["deviation"] <= 0.1
    assert result["admitted"][2]["refused"] > result["admitted"][0]["refused"]
    assert "nobody refused" in run.stderr


def test_without_a_bound_worth_the_name_sessions_are_late_and_the_command_says_so() -> None:
    run = CliRunner().invoke(app, ["bench", "load", "--seconds", "240", "--max-utilisation", "2", "--json"])
    assert run.exit_code == 1
    assert json.loads(run.stdout.splitlines()[-1])["passed"] is False
    assert "of the blocks in time, at least 99%" in run.stderr


def test_unfair_shares_would_be_found() -> None:
    fair = {"bronze": 0.25, "gold": 0.75}
    admitted = Admitted(4.0, 100, 300, 0.8, 1000, 995, 50, 49, 0.99)
    even = Shared(4.0, fair, fair, 0.99, 30.0)
    assert LoadTable([admitted], [even], 240, 3).failures == []
    uneven = dataclasses.replace(even, shares={"bronze": 0.8, "gold": 0.2}, fairness=0.9)
    failures = LoadTable([admitted], [uneven], 240, 3).failures
    assert len(failures) == 2
    assert "off the weights" in failures[0]
    assert "Jain" in failures[1]


def chunk(block: int, frames: int = 4) -> pb.VideoChunk:
    return pb.VideoChunk(block=block, frames=[pb.VideoFrame()] * frames)


def test_a_block_is_late_when_any_of_its_frames_is_and_what_follows_is_due_from_then_on() -> None:
    caller = Caller(1, 1.0)
    clock = ViewerClock(20, 0.5)
    # Of each message the first frame is shown when the clock says, and the next message is due 0.2 s later.
    for block, arrived, shown in ((0, 10.0, 10.5), (0, 10.9, 10.9), (1, 11.1, 11.1)):
        caller._see(chunk(block), clock.came(4, arrived))
        assert clock.due == pytest.approx(shown + 0.2)
    assert (caller.blocks, caller.late, caller.frames) == ({0, 1}, {0}, 12)
    assert caller.longest_stall_s == pytest.approx(0.2)


def spent(admitted: float, ended: float, **seen: Any) -> Caller:
    return Caller(1, 1.0, came=admitted, admitted=admitted, ended=ended, blocks=set(range(10)), **seen)


def test_capacity_is_what_was_held_at_one_moment() -> None:
    callers = [spent(0, 10), spent(1, 5), spent(5, 9), spent(6, 7), Caller(1, 1.0, came=2, told_s=3.0)]
    assert held_at_once(callers) == 3
    assert held_at_once([]) == 0


def test_a_row_says_what_did_not_hold() -> None:
    good = [spent(0, 10) for _ in range(10)]
    assert LiveRow(1.0, good).failures == []
    late = LiveRow(2.0, [*good, spent(0, 10, late={1, 2})])
    assert late.in_time == pytest.approx(1 - 2 / 110)
    wrong = LiveRow(4.0, [*good, Caller(1, 1.0, told_s=5.0, let_in_again=False), Caller(1, 1.0, told_s=90.0)])
    assert wrong.to_dict()["came_back"] == 1, "who is told a long time does not come back"
    nobody = LiveRow(4.0, [Caller(1, 1.0, told_s=5.0), Caller(2, 1.0, error="INTERNAL: incident")])
    table = LiveTable([LiveRow(1.0, good), late, wrong, nobody], 4, 10.0, 60.0, 1)
    assert [failure.partition(":")[0] for failure in table.failures] == ["2x", "4x", "4x", "4x"]
    assert table.to_dict()["passed"] is False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seconds", "60"], "a simulated row lasts at least 240 s"),
        (["--address", "127.0.0.1:1", "--set", "port=1"], "a service of this command's own"),
        (["--address", "127.0.0.1:1", "--max-utilisation", "0.5"], "a service of this command's own"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: list[str], said: str) -> None:
    run = CliRunner().invoke(app, ["bench", "load", *arguments])
    assert run.exit_code != 0
    assert said in " ".join(run.output.replace("│", " ").split())


@pytest.mark.slow
def test_real_clients_are_admitted_up_to_the_capacity_and_the_others_told_a_time() -> None:
    run = CliRunner().invoke(app, ["bench", "load", "--live", "--seconds", "30", "--length", "6", "--json"])
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["capacity"] == 4
    _, twice, often = result["live"]
    assert min(row["blocks"] for row in result["live"]) > 20
    assert often["refused"] > twice["refused"] > 0
    assert often["came_back"] > 0
    assert often["retry_right"] >= 0.8
