"""Parts of the service die at random while sessions stream: nobody loses a frame or a byte, and what it costs is counted."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from conftest import Service
from liveact_services.cli.bench.chaos.forwarder import Forwarder
from liveact_services.cli.bench.chaos.outcome import Blow, Outcome, Viewer, percentile
from liveact_services.cli.bench.chaos.storm import Storm, disturb
from liveact_services.cli.bench.chaos.victims import CUT, DEPLOYMENTS, KINDS, Striker, Wanted, kind_of, processes
from liveact_services.cli.bench.chaos.viewers import Play
from liveact_services.cli.bench.graph import clip
from liveact_services.cli.main import app

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
    assert viewer.stalled(102.0, 106.0) == 1.5


@pytest.mark.parametrize(("second", "error"), [(range(3, 6), "frame 3"), (range(5, 8), "frame 5")])
def test_a_frame_that_is_missing_or_comes_twice_is_told(second: range, error: str) -> None:
    viewer = Viewer(0)
    viewer.video(range(4), 0.0, 0.5, FPS)
    viewer.video(second, 0.1, 0.5, FPS)
    assert viewer.error == f"{error} came where frame 4 was next"


def test_a_blow_s_row_has_the_viewers_who_were_there_until_the_next() -> None:
    first, second = Viewer(0, 0.0, 33.0, frames=10), Viewer(1, 12.0, 40.0, frames=20)
    first.stalls = [(5.0, 0.1), (12.0, 2.0), (14.0, 1.0), (25.0, 4.0)]
    first.error, first.reconnections = "SESSION_LOST: gone", [13.0, 26.0]
    second.stalls, second.unequal = [(31.0, 8.0)], 2
    blows = [Blow("Denoiser", 10.0), Blow("Vault", 20.0), Blow("Denoiser", 30.0)]
    outcome = Outcome([first, second], blows, 0.0, 40.0)
    assert {row.kind: row.stalls for row in outcome.rows()} == {
        "none": [0.1], "Denoiser": [3.0, 0.0, 0.0, 0.0], "Vault": [4.0, 8.0],
    }  # fmt: skip
    values = outcome.to_dict()
    assert values["kinds"]["Denoiser"] == {
        "kills": 2, "viewers": 4, "stall_p50_s": 0.0, "stall_p95_s": 3.0, "stall_max_s": 3.0, "reconnections": 1, "lost": 1,
    }  # fmt: skip
    assert values["kinds"]["Vault"]["reconnections"] == 1
    assert (values["lost"], values["frames_compared"], values["frames_unequal"]) == (1, 30, 2)
    assert values["errors"] == ["seed 0: SESSION_LOST: gone", "seed 1: 2 frames differ"]
    assert Outcome([], [], 0.0, 1.0, broken="Vault: not back").errors == ["Vault: not back"]


def test_percentiles_are_values_that_were_seen() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, p) for p in (1, 20, 50, 95, 100)] == [1.0, 1.0, 3.0, 5.0, 5.0]
    assert percentile([], 50) == 0.0


# ---- who is struck


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("ray::ServeReplica:liveact:Denoiser", "Denoiser"),
        ("ray::ServeReplica:liveact:Denoiser.handle_request_streaming", "Denoiser"),
        ("ray::ServeReplica:liveact:Denoiser-gold", None),
        ("ray::ServeReplica:liveact:VaeEncoder", "VaeEncoder"),
        ("ray::ServeController.listen_for_change", "controller"),
        ("ray::ProxyActor", "proxy"),
        ("/opt/valkey/bin/valkey-server", "Valkey"),
        ("ray::IDLE", None),
    ],
)
def test_processes_are_known_by_their_titles(word: str, kind: str | None) -> None:
    assert kind_of(word) == kind


async def test_what_is_stopped_is_not_there_until_it_is_continued_and_everything_is_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with subprocess.Popen(["valkey-server", "-c", "import time; time.sleep(60)"], executable=sys.executable) as child:  # noqa: ASYNC220
        try:
            monkeypatch.setattr("liveact_services.cli.bench.chaos.victims.HUNG_S", (400.0, 400.0))
            mine = lambda: [p.pid for p in processes()["Valkey"] if p.pid == child.pid]  # noqa: E731
            assert mine() == [child.pid]
            striker = Striker(Forwarder("127.0.0.1:1"), random.Random(0))
            assert striker._stop(psutil.Process(child.pid), "Valkey") == "stopped Valkey for 100.0 s"
            await settled(lambda: mine() == [])
            await striker.release()
            await settled(lambda: mine() == [child.pid])
        finally:
            child.kill()


async def settled(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.02)


def test_every_kind_has_its_turn_before_one_comes_again() -> None:
    for order in ("shuffled", "turn"):
        targets = Storm(kills=1, every_s=0, order=order).targets(random.Random(1))  # type: ignore[arg-type]
        rounds = [[next(targets) for _ in KINDS] for _ in range(3)]
        assert all(sorted(one) == sorted(KINDS) for one in rounds)
        assert (rounds[0] == rounds[1] == list(KINDS)) == (order == "turn")


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    run = CliRunner().invoke(app, ["bench", "chaos", "--kinds", "Denoiser,Nobody"])
    assert run.exit_code == 2
    assert "VaeDecoder-hung" in run.output.replace("\n", "")
    listed = CliRunner().invoke(app, ["bench", "chaos", "--kinds", "list"])
    assert listed.output.split() == list(KINDS)


# ---- the service


def play(portrait: bytes, seconds: float) -> Play:
    return Play(portrait, clip(seconds), (32, 32))


async def test_four_sessions_lose_no_frame_and_no_byte_while_replicas_die(service: Service, portrait: bytes) -> None:
    wanted = Wanted.of(service.config, service.address)
    storm = Storm(kills=3, every_s=2.0, kinds=(CUT, "VaeDecoder", "Denoiser"), order="turn", overlap=True, seed=1)
    outcome = await disturb(wanted, storm, play(portrait, 8.0), lambda done, what: print(done, what))
    assert outcome.errors == []
    assert [blow.kind for blow in outcome.blows] == [CUT, "VaeDecoder", "Denoiser"]
    assert min(viewer.frames for viewer in outcome.viewers) >= 8 * FPS
    assert sum(len(viewer.reconnections) for viewer in outcome.viewers) >= 3
    assert sum(viewer.migrations for viewer in outcome.viewers) >= 2
    print({row.kind: [round(stall, 2) for stall in row.stalls] for row in outcome.rows()})


@pytest.mark.chaos
@pytest.mark.timeout(1500)
async def test_sessions_lose_no_frame_and_no_byte_in_minutes_of_chaos(service: Service, portrait: bytes) -> None:
    """What holds or makes something of a session, killed and hung; the parts around it are for `make chaos`."""
    wanted = Wanted.of(service.config, service.address)
    kinds = (
        CUT,
        *(name for name in DEPLOYMENTS if name != "Gateway"),
        "Denoiser-hung",
        "VaeDecoder-hung",
        "Valkey-hung",
    )
    outcome = await disturb(
        wanted, Storm(kills=2 * len(kinds), every_s=4.0, kinds=kinds, seed=2), play(portrait, 20.0),
        lambda done, what: print(done, what),
    )  # fmt: skip
    assert outcome.errors == []
    assert {blow.kind for blow in outcome.blows} == set(kinds)
