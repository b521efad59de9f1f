"""`liveact bench memory` measures a session that does not age, and finds one that would."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from typer.testing import CliRunner, Result

from liveact_models.config import preset
from liveact_models.memory import memory_bytes
from liveact_models.pipeline import Performance
from liveact_services.cli.bench.memory import Ageing, Sample, report
from liveact_services.cli.main import app

FORMULA = memory_bytes(preset("tiny"), 32, 32, torch.float32)
CHECK_FAILED, INTERRUPTED = 1, 130


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """The command sets them for its process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def bench(*options: str) -> tuple[Result, dict]:
    result = CliRunner().invoke(app, ["bench", "memory", "--json", *options])
    return result, json.loads(result.stdout.splitlines()[-1])


def ageing(blocks: int = 400, **changes) -> Ageing:
    """A session that does not age, but for `changes`: a series by block, or a number that every block has."""
    made = Ageing(blocks, FORMULA)
    series = {"state_bytes": FORMULA, "decoder_bytes": 100, "rss_bytes": 500_000_000, "block_s": 0.1, "control_s": 0.1}
    for block in range(blocks):
        at = {name: value(block) if callable(value) else value for name, value in (series | changes).items()}
        made.samples.append(Sample(**(at if made.has_control(block) else at | {"control_s": None})))
    return made


# The command


def test_forty_blocks_keep_a_state_of_the_formula_s_bytes(tmp_path):
    out = tmp_path / "new" / "memory.png"
    _, figures = bench("--blocks", "40", "--out", str(out))
    # Whether time and memory passed is the machine's affair in so short a run.
    assert figures["blocks"] == 40
    assert figures["state_bytes"] == figures["state_bytes_formula"] == FORMULA == 3 * 6 * 2 * 6 * 4 * 192 * 4
    assert figures["state_bytes_constant"] is True
    assert figures["complete"] is True
    assert figures["decoder_bytes"] > 0
    assert {"rss_growth", "block_time_ratio", "passed", "date", "hardware"} <= figures.keys()
    assert out.read_bytes().startswith(b"\x89PNG")
    assert torch.get_num_threads() == 1


def test_the_exit_code_says_whether_it_passed(tmp_path, monkeypatch):
    """A state that grows by a byte fails the check, and the object stays the last line."""
    grown = property(lambda self: FORMULA + (self.state.block > 15))
    monkeypatch.setattr(Performance, "decoder_bytes", grown)
    result, figures = bench("--blocks", "20", "--out", str(tmp_path / "memory.png"))
    assert result.exit_code == CHECK_FAILED
    assert figures["passed"] is False
    assert figures["state_bytes_constant"] is False
    assert "state" in result.stderr


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--blocks", "19"], 2, "equal to 20"),
        (["--size", "32"], 2, "WIDTHxHEIGHT"),
        (["--size", "40x32"], 3, "multiples of 16"),
        (["--preset", "small"], 3, "tiny"),
        (["--voice", "no-such.wav"], 3, "no-such.wav"),
    ],
)
def test_what_is_not_accepted_is_named(options, code, words):
    result = CliRunner().invoke(app, ["bench", "memory", *options])
    assert result.exit_code == code
    assert words in result.stderr


@pytest.mark.slow
def test_an_interrupt_shows_what_was_measured(tmp_path):
    arguments = ["bench", "memory", "--blocks", "60", "--json", "--out", str(tmp_path / "memory.png")]
    script = f"""
import os, signal, sys
from liveact_models.pipeline import Performance
from liveact_services.cli.main import app
# Whoever started the tests in the background has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
made = []
next_block = Performance.next_block
def counted(self):
    made.append(self)
    if len(made) == 40:
        os.kill(os.getpid(), signal.SIGINT)
    return next_block(self)
Performance.next_block = counted
app({arguments!r})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == INTERRUPTED, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert 25 < figures["blocks"] < 40
    assert (figures["complete"], figures["passed"], figures["machine_ratio"]) == (False, False, None)
    assert figures["state_bytes_constant"] is True
    assert "of 60 blocks" in done.stderr


# What passes and what does not


def test_a_session_that_does_not_age_passes():
    assert ageing().passed
    assert ageing(block_s=lambda block: 0.5 if block < 5 else 0.1).passed  # warm-up is not timed
    assert ageing(block_s=lambda block: 0.4 if block % 5 == 0 else 0.1).passed  # medians
    assert ageing(rss_bytes=lambda block: 500_000_000 + (block > 8) * 50_000_000).passed


@pytest.mark.parametrize(
    ("failed", "changes"),
    [
        ("state", {"state_bytes": lambda block: FORMULA + block // 399}),
        ("state", {"state_bytes": FORMULA + 4}),
        ("state", {"decoder_bytes": lambda block: 100 + block // 399}),
        ("rss", {"rss_bytes": lambda block: 500_000_000 + 15_000 * block}),
        ("time", {"block_s": lambda block: 0.1 + 0.00002 * block}),
    ],
)
def test_growth_of_each_kind_fails(failed, changes):
    grown = ageing(**changes)
    assert [name for name, held in grown.checks.items() if not held] == [failed]
    assert not grown.passed
    assert report(grown)["passed"] is False


def test_a_machine_that_became_slower_is_told_from_a_session_that_did():
    def slower(block: int) -> float:
        return 0.1 if block < 200 else 0.13

    busy = ageing(block_s=slower, control_s=slower)
    assert busy.block_time_ratio == pytest.approx(1.3)
    assert busy.machine_ratio == pytest.approx(1.3)
    assert busy.passed
    assert not ageing(block_s=slower).passed


def test_a_measurement_cut_short_does_not_pass():
    cut = ageing()
    del cut.samples[300:]
    assert cut.tells
    assert not cut.passed
