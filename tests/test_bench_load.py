"""`liveact bench load`: the table, its JSON, and that it says no when it should."""

from __future__ import annotations

import dataclasses
import json

from typer.testing import CliRunner

from liveact_services.cli.bench.load.simulated import LoadTable, measure
from liveact_services.cli.main import app


def test_it_prints_a_table_for_people_and_one_object_for_scripts() -> None:
    run = CliRunner().invoke(app, ["bench", "load", "--seconds", "240", "--seed", "3", "--json"])
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
    again = CliRunner().invoke(app, ["bench", "load", "--seconds", "240", "--seed", "3", "--json"])
    assert json.loads(again.stdout.splitlines()[-1]) == result


def test_without_a_bound_worth_the_name_sessions_are_late_and_the_command_says_so() -> None:
    run = CliRunner().invoke(app, ["bench", "load", "--seconds", "240", "--max-utilisation", "2", "--json"])
    assert run.exit_code == 1
    assert json.loads(run.stdout.splitlines()[-1])["passed"] is False
    assert "of the blocks in time, at least 99%" in run.stderr


def test_unfair_shares_would_be_found() -> None:
    table = measure(240, 3)
    assert table.failures == []
    unfair = dataclasses.replace(table.shared[2], shares={**table.shared[2].shares, "gold": 0.2}, fairness=0.9)
    failures = LoadTable(table.admitted, [unfair], 240, 3).failures
    assert len(failures) == 2
    assert "off the weights" in failures[0]
    assert "Jain" in failures[1]
