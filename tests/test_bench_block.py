"""`liveact bench block`, `decode` and `e2e`: what a block costs part by part, and how many sessions a service carries."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from conftest import Service
from liveact.v1 import avatar_pb2 as pb
from liveact_models.ceilings import Ceilings, measure_ceilings
from liveact_models.config import preset
from liveact_models.flops import block_parts
from liveact_services.cli.bench.block.roofline import Part
from liveact_services.cli.bench.e2e import EndToEnd, Row
from liveact_services.cli.bench.load.offer import Caller
from liveact_services.cli.main import app


def run(*words: str) -> dict:
    done = CliRunner().invoke(app, ["bench", *words, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("precision", ["fp32", "fp8"])
def test_the_parts_of_a_block_add_up_and_each_is_compared_with_the_device(precision: str) -> None:
    found = run("block", "--size", "32x32", "--layers", "2", "--blocks", "2", "--precision", precision)
    parts = {part["part"]: part for part in found["parts"]}
    assert all(part["ms"] > 0 for part in parts.values())
    assert sum(part["ms"] for part in parts.values()) == pytest.approx(found["in_series_ms"]["median"], rel=0.5)
    assert 0 < found["first_frame_ms"]["median"] < found["in_series_ms"]["median"]
    assert found["ceilings"]["tflop_per_s"] > 0
    for part in parts.values():
        if part["tflop"]:
            assert part["of_arithmetic"] == pytest.approx(
                part["tflop_per_s"] / found["ceilings"]["tflop_per_s"], rel=0.05
            )
        assert part["bound"] in ("arithmetic", "memory", "neither")
    assert found["fps"] == pytest.approx(32_000 / found["overlapped_ms"]["median"], rel=0.01)
    assert found["layers"] == 2
    assert found["session_mib"] > 0


def test_the_parts_are_all_that_is_counted_of_the_transformer() -> None:
    from liveact_models.flops import block_tflop

    parts = block_parts(preset("tiny"), 32, 32)
    beside = parts.pop("audio encoder"), parts.pop("VAE decoder")
    assert sum(parts.values()) == pytest.approx(block_tflop(preset("tiny"), 32, 32))
    assert min(beside) > 0


def test_decoding_alone_is_timed_from_its_first_frames_on() -> None:
    found = run("decode", "--size", "32x32", "--blocks", "2")
    assert 0 < found["first_frames_ms"]["median"] < found["block_ms"]["median"]
    assert found["cache_mib"] > 0


def test_a_size_that_is_no_multiple_is_refused() -> None:
    for command in ("block", "decode", "denoise"):
        done = CliRunner().invoke(app, ["bench", command, "--size", "33x32"])
        assert done.exit_code != 0
        assert "multiples of 16" in str(done.exception) + done.output


def test_ceilings_are_of_the_device() -> None:
    found = measure_ceilings(torch.device("cpu"), torch.float32)
    assert 0.001 < found.tflop_per_s < 100
    assert 0.1 < found.gb_per_s < 10_000


def test_a_part_is_bound_by_what_it_reaches_most_of() -> None:
    most = Ceilings(tflop_per_s=10, gb_per_s=100)
    assert Part("ffn", 1.0, 8.0, 10.0, most).bound == "arithmetic"
    assert Part("ffn", 1.0, 1.0, 90.0, most).bound == "memory"
    assert Part("norms", 1.0, 1.0, 10.0, most).bound == "neither"


def caller(late: int = 0, error: str = "") -> Caller:
    made = Caller(1, 1.0, error=error, spoke=1.0, spoken=2.5)
    made.blocks, made.late = set(range(100)), set(range(late))
    return made


def test_as_many_are_carried_as_see_their_blocks_in_time() -> None:
    rows = [Row([caller()]), Row([caller(), caller(late=1)]), Row([caller(late=3)] * 3)]
    found = EndToEnd(rows, (32, 32), 20.0, "untrained")
    assert found.sessions == 2
    assert [row["in_time"] for row in found.to_dict()["rows"]] == [1.0, 0.995, 0.97]
    assert found.to_dict()["rows"][0]["first_frame_s_median"] == 1.5
    assert EndToEnd([Row([caller(error="it broke")])], (32, 32), 20.0, "untrained").sessions == 0


def test_the_first_frame_of_the_voice_counts_and_not_the_idle_ones_before() -> None:
    one = Caller(1, 1.0, spoke=1.0)
    one._see(pb.VideoChunk(block=0, frames=[pb.VideoFrame()]), 0.0)
    assert one.first_frame_s is None
    assert one.stalls == 0
    one._see(pb.VideoChunk(block=1, frames=[pb.VideoFrame()]), 0.3)
    assert (one.stalls, one.longest_stall_s) == (1, 0.3)


@pytest.mark.slow
def test_a_running_service_carries_one_client(service: Service) -> None:
    found = run("e2e", "--address", service.address, "--clients", "1", "--seconds", "6", "--size", "32x32")
    assert found["sessions_at_realtime"] == 1
    assert found["rows"][0]["blocks"] >= 3
    assert 0 < found["rows"][0]["first_frame_s_median"] < 6
