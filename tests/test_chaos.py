"""Replicas die at random while sessions stream: nobody loses a frame, and what it costs is counted."""

from __future__ import annotations

from typing import Any

import pytest

from conftest import Service
from failover_fixtures import until_replicas
from liveact_services.cli.bench.chaos import KINDS, Kill, Outcome, Viewer, disturb, kill_one, percentile
from liveact_services.cli.bench.graph import clip

FPS = 20.0


# ---- what is counted


def test_a_viewer_stalls_when_a_frame_is_late_and_everything_after_it_is_shown_later() -> None:
    viewer = Viewer(0)
    viewer.video(range(20), 100.0, 0.5, FPS)
    viewer.video(range(20, 40), 101.4, 0.5, FPS)
    assert viewer.stalls == []
    # Due at 102.5, and a second and a half late.
    viewer.video(range(40, 60), 104.0, 0.5, FPS)
    viewer.video(range(60, 80), 105.0, 0.5, FPS)
    viewer.video(range(80, 100), 106.25, 0.5, FPS)
    assert viewer.stalls == [(104.0, 1.5), (106.25, 0.25)]
    assert (viewer.frames, viewer.error) == (100, "")
    assert viewer.stalled(103.0, 106.0) == 1.5


@pytest.mark.parametrize(("second", "error"), [(range(3, 6), "frame 3"), (range(5, 8), "frame 5")])
def test_a_frame_that_is_missing_or_comes_twice_is_told(second: range, error: str) -> None:
    viewer = Viewer(0)
    viewer.video(range(4), 0.0, 0.5, FPS)
    viewer.video(second, 0.1, 0.5, FPS)
    assert viewer.error == f"{error} came where frame 4 was next"


def test_stalls_belong_to_the_kill_before_them() -> None:
    first, second = Viewer(0, frames=10), Viewer(1, frames=20)
    first.stalls = [(5.0, 0.1), (12.0, 2.0), (14.0, 1.0), (25.0, 4.0)]
    second.stalls = [(31.0, 8.0)]
    outcome = Outcome([first, second], [Kill("Denoiser", 10.0), Kill("Vault", 20.0), Kill("Denoiser", 30.0)], 0.0, 40.0)
    assert outcome.stalls() == {"none": [0.1, 0.0], "Denoiser": [3.0, 0.0, 0.0, 8.0], "Vault": [4.0, 0.0]}
    figures = outcome.to_dict()["kinds"]["Denoiser"]
    assert figures == {"kills": 2, "stall_p50_s": 0.0, "stall_p95_s": 8.0}


def test_percentiles_are_values_that_were_seen() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, p) for p in (1, 20, 50, 95, 100)] == [1.0, 1.0, 3.0, 5.0, 5.0]
    assert percentile([], 50) == 0.0


# ---- what is killed


async def strike(service: Service, portrait: bytes, seconds: float, **chaos: Any) -> Outcome:
    outcome = await disturb(
        service.address, kill_one, portrait=portrait, voice=clip(seconds), size=(32, 32), sessions=4, **chaos
    )
    for deployment in KINDS:
        await until_replicas(deployment, 2 if deployment in ("Denoiser", "VaeDecoder") else 1, service)
    assert outcome.errors == []
    assert min(viewer.frames for viewer in outcome.viewers) >= seconds * FPS
    print({kind: [round(stall, 2) for stall in stalls] for kind, stalls in outcome.stalls().items()})
    return outcome


async def test_four_sessions_lose_no_frame_while_replicas_die(service: Service, portrait: bytes) -> None:
    kinds = ("Denoiser", "VaeDecoder", "AudioEncoder")
    outcome = await strike(service, portrait, 22.0, every_s=6.0, kinds=kinds, seed=1)
    assert len(outcome.kills) >= 3
    assert sum(viewer.migrations for viewer in outcome.viewers) >= 4


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_four_sessions_lose_no_frame_in_minutes_of_chaos(service: Service, portrait: bytes) -> None:
    outcome = await strike(service, portrait, 180.0, every_s=12.0, seed=2)
    assert {kill.kind for kill in outcome.kills} == set(KINDS)
