"""What a newcomer types first, for real. Slow: it starts a service of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import pytest

BLOCK_S = 1.6


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_leaves_a_video_with_sound_of_the_voice_s_length(tmp_path: Path) -> None:
    out = tmp_path / "demo.mp4"
    command = [str(Path(sys.executable).with_name("liveact")), "demo", "--out", str(out), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert {"time_to_first_frame_s", "frames_per_second", "realtime_factor"} <= figures.keys()
    with av.open(str(out)) as file:
        lengths = {s.type: float(s.duration * s.time_base) for s in file.streams if s.duration and s.time_base}
        codecs = {s.type: s.codec_context.name for s in file.streams}
        frames = sum(1 for _ in file.decode(video=0))
    assert codecs == {"video": "h264", "audio": "aac"}
    assert lengths["video"] == pytest.approx(lengths["audio"], abs=0.05)
    assert 0 <= lengths["video"] - figures["realtime"]["voice_s"] <= BLOCK_S
    assert frames == figures["realtime"]["frames"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_hour_of_one_session_does_not_age(tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("liveact")),
        "bench",
        "memory",
        "--json",
        "--out",
        str(tmp_path / "p.png"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=880, check=False)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["blocks"] == 2250
    assert figures["state_bytes"] == figures["state_bytes_formula"]
    assert abs(figures["rss_growth"]) <= 0.01
    assert done.returncode == 0, done.stderr
