"""What `liveact bench exports` makes of its passes."""

from __future__ import annotations

import pytest

from liveact_services.cli.bench.exports import Cost, Exports
from liveact_services.cli.bench.graph import Pass


def made(wall_s: float) -> Pass:
    return Pass(100, wall_s, 0.1, {}, 4)


def cost(*pairs: tuple[float, float]) -> Cost:
    """From the seconds that each pair took with exports and without."""
    on, off = zip(*pairs, strict=True)
    exports = {"denoiser": Exports(3, 3_000_000, 0.06), "decoder": Exports(0, 0, 0.0)}
    return Cost([made(s) for s in on], [made(s) for s in off], exports, 4, 64, 64)


def test_each_pass_is_compared_with_the_other_of_its_pair_and_the_median_counts() -> None:
    # The machine was three times slower in the last pair, which says nothing of the exports.
    found = cost((10.0, 9.8), (10.2, 10.0), (30.0, 27.0))
    assert found.throughput_ratio == pytest.approx(0.98, abs=0.001)
    assert found.passed
    values = found.to_dict()
    assert (values["ratio_min"], values["ratio_max"]) == (0.9, 0.98)
    assert values["stages"] == {
        "denoiser": {"exports": 3, "bytes": 1_000_000, "serialise_ms": 20.0},
        "decoder": {"exports": 0, "bytes": 0, "serialise_ms": 0.0},
    }
    assert found.table().row_count == 3


def test_more_than_three_hundredths_are_too_much() -> None:
    assert not cost((10.0, 9.5), (10.0, 9.6), (10.0, 9.9)).passed
