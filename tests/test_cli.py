"""The command line: exit codes, the one JSON line, and every command that can run without a model."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import av
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from avatar_peer import AvatarPeer, serving, tone
from liveact.v1 import avatar_pb2 as pb2
from liveact_services.cli.main import app

LIVEACT = (sys.executable, "-m", "liveact_services.cli.main")
EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LIVEACT_")]:
        monkeypatch.delenv(name)


def run(*args: str | Path):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def last_json(text: str) -> dict:
    return json.loads(text.splitlines()[-1])


@pytest.fixture
def portrait(tmp_path: Path) -> Path:
    path = tmp_path / "portrait.png"
    Image.new("RGB", (64, 64), (200, 150, 120)).save(path)
    return path


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    path = tmp_path / "voice.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(tone(1.0, 16000))
    return path


# ---- help and exit codes -------------------------------------------------------------------------------------------------


def test_help_is_quick_and_tells_the_exit_codes():
    took = []
    for _ in range(3):
        began = time.perf_counter()
        shown = subprocess.run([*LIVEACT, "--help"], capture_output=True, text=True, check=True).stdout
        took.append(time.perf_counter() - began)
    assert min(took) < 1.0
    for code in ("0 ok", "1 a check failed", "2 wrong usage", "3 bad input", "4 the service", "5 internal", "130"):
        assert code in " ".join(shown.split())
    for command in ("serve", "stream", "render", "demo", "parity", "doctor", "config", "bench"):
        assert f"  {command} " in shown


def test_the_command_line_imports_nothing_heavy():
    heavy = "{'torch', 'ray', 'grpc', 'av', 'pydantic', 'diffusers', 'transformers'}"
    code = f"import liveact_services.cli.main, sys; print(sorted({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("code", "args", "said"),
    [
        (2, ["frobnicate"], "frobnicate"),
        (2, ["stream", "a.png"], "VOICE"),
        (2, ["stream", EXAMPLES / "portrait.jpg", "v.wav", "--size", "big"], "512x512"),
        (2, ["stream", EXAMPLES / "portrait.jpg", "v.wav", "--codec", "av1"], "h264"),
        (2, ["stream", EXAMPLES / "portrait.jpg", "v.wav", "--out", "-", "--json"], "stdout"),
        (2, ["config", "show", "--set", "port"], "KEY=VALUE"),
        (3, ["stream", "no-such.png", "v.wav"], "no-such.png"),
        (3, ["stream", EXAMPLES / "portrait.jpg", "no-such.wav"], "no-such.wav"),
        (3, ["stream", EXAMPLES / "portrait.jpg", EXAMPLES / "portrait.jpg"], "audio"),
        (3, ["config", "show", "--set", "preset=huge"], "soulx-liveact-18b"),
        (3, ["config", "show", "--set", "denoiser.replicas=many"], "denoiser.replicas"),
        (3, ["config", "show", "--config", "no-such.yaml"], "no-such.yaml"),
        (3, ["bench", "flops", "--preset", "tiny", "--size", "33x33"], "33x33"),
        (3, ["demo", "--image", "no-such.png"], "no-such.png"),
        (4, ["stream", EXAMPLES / "portrait.jpg", EXAMPLES / "voice.wav", "--server", "127.0.0.1:1"], "UNAVAILABLE"),
    ],
)
def test_errors_are_one_line_on_stderr_with_their_exit_code(tmp_path, monkeypatch, code, args, said):
    monkeypatch.chdir(tmp_path)
    result = run(*args)
    assert result.exit_code == code, result.output
    assert said in result.stderr
    assert "Traceback" not in result.output
    if code > 2:
        assert len([line for line in result.stderr.splitlines() if line.startswith("liveact: ")]) == 1


def test_an_error_is_json_too_when_json_is_asked_for(tmp_path, portrait, voice):
    result = run("stream", portrait, voice, "--server", "127.0.0.1:1", "--out", tmp_path / "v.mp4", "--json")
    assert last_json(result.stdout)["error"]["exit_code"] == 4
    assert list(tmp_path.glob("*.mp4*")) == []


def test_what_nobody_foresaw_gets_an_incident_and_a_traceback_only_with_debug(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("the moon\nis full")

    monkeypatch.setattr("liveact_services.config.load_config", broken)
    result = run("config", "show")
    assert result.exit_code == 5
    assert "incident" in result.stderr
    assert "RuntimeError: the moon is full" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in run("--debug", "config", "show").stderr


def test_an_interrupt_exits_130(monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("liveact_services.config.load_config", interrupted)
    assert run("config", "show").exit_code == 130


# ---- config --------------------------------------------------------------------------------------------------------------


def test_config_show_layers_file_environment_and_command_line(tmp_path, monkeypatch):
    (tmp_path / "c.yaml").write_text("port: 9100\nhttp_port: 8100\npreset: tiny\n")
    monkeypatch.setenv("LIVEACT_HTTP_PORT", "8200")
    result = run("config", "show", "--config", tmp_path / "c.yaml", "--set", "denoiser.replicas=3", "--json")
    assert result.exit_code == 0
    shown = last_json(result.stdout)
    assert (shown["port"], shown["http_port"], shown["denoiser"]["replicas"]) == (9100, 8200, 3)
    assert yaml.safe_load(run("config", "show", "--set", "port=9300").stdout)["port"] == 9300


def test_config_show_hides_the_password():
    result = run("config", "show", "--set", "redis_url=redis://liveact:s3cret@db:6379/0")
    assert "s3cret" not in result.output
    assert "redis://liveact:***@db:6379/0" in result.stdout


# ---- parity, bench, doctor -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("worst", "code"), [(1e-5, 0), (2e-4, 1), (float("nan"), 1)])
def test_parity_fails_above_the_threshold_and_on_nan(monkeypatch, worst, code):
    from liveact_models import parity

    rows = [parity.ParityRow("dit", "euler", "latent.0", 1e-6), parity.ParityRow("vae", "", "decoded", worst)]
    monkeypatch.setattr(parity, "run", lambda directory: rows)
    result = run("parity", "anywhere", "--json")
    assert result.exit_code == code
    shown = json.loads(next(line for line in result.stdout.splitlines() if line.startswith('{"passed')))
    assert shown["passed"] is (code == 0)
    assert len(shown["rows"]) == 2
    assert ("FAIL" in result.stderr) is (code == 1)


def test_parity_of_a_folder_without_tensors_is_bad_input(tmp_path):
    result = run("parity", tmp_path)
    assert result.exit_code == 3
    assert "dit.json" in result.stderr


def test_bench_flops_ends_with_one_object_that_names_the_cost():
    result = run("bench", "flops", "--preset", "tiny", "--size", "64x64", "--json")
    assert result.exit_code == 0
    shown = last_json(result.stdout)
    assert shown["tflop_per_frame"] == pytest.approx(sum(shown["parts"].values()))
    assert 0 < shown["without_audio"] < shown["tflop_per_frame"] < shown["with_encoder_and_decoder"]
    assert len(result.stdout.splitlines()) == 1


def test_doctor_reports_every_area_and_why_something_is_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", None)  # what an import of a missing module meets
    result = run("doctor", "--set", "port=0", "--json")
    shown = last_json(result.stdout)
    checks = {check["name"]: check for check in shown["checks"]}
    assert (result.exit_code, shown["ok"]) == (0, True)
    assert {check["area"] for check in shown["checks"]} == {
        "hardware", "torch", "media", "sessions", "model", "network",
    }  # fmt: skip
    assert checks["flash_attn"]["found"] == "absent"
    assert "pip install" in checks["flash_attn"]["fix"]
    assert checks["libx264"]["found"] == checks["aac"]["found"] == checks["Valkey"]["found"] == "ok"
    assert checks["checkpoint"]["found"] == "ok"


def test_doctor_says_where_trained_weights_are_to_be_had():
    checks = {
        check["name"]: check
        for check in last_json(run("doctor", "--checkpoint", "untrained", "--json").stdout)["checks"]
    }
    assert checks["checkpoint"]["found"] == "warning"
    assert "liveact weights pull soulx-liveact" in checks["checkpoint"]["fix"]


def test_doctor_says_who_holds_which_heads_and_misses_a_gpu_for_each_rank(monkeypatch):
    from liveact_services.cli import diagnosis
    from liveact_services.config import load_config

    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert list(diagnosis.ranks(load_config())) == []
    (shared,) = diagnosis.ranks(load_config(denoiser={"ranks": 2, "num_gpus": 1}))
    assert shared.found == "ok"
    assert "share 3 heads as 1 + 2" in shared.detail
    (lacking,) = diagnosis.ranks(load_config(pools={"gold": {"ranks": 3, "num_gpus": 1}}))
    assert lacking.found == "failed"
    assert "gold: 3 a Denoiser" in lacking.detail
    assert "a node of 3 GPUs" in lacking.fix


def test_doctor_fails_on_what_would_keep_the_service_down(tmp_path):
    result = run("doctor", "--checkpoint", tmp_path / "none", "--set", "redis_url=redis://:pw@127.0.0.1:1/0", "--json")
    assert result.exit_code == 1
    checks = {check["name"]: check for check in json.loads(result.stdout.splitlines()[0])["checks"]}
    assert checks["checkpoint"]["found"] == checks["Redis"]["found"] == "failed"
    assert str(tmp_path / "none") in checks["checkpoint"]["detail"]
    assert ":pw@" not in result.output


# ---- stream --------------------------------------------------------------------------------------------------------------


async def _liveact(*args: object, stdin: bytes | None = None) -> tuple[int, bytes, str]:
    process = await asyncio.create_subprocess_exec(
        *LIVEACT, *map(str, args), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(stdin), 60)
    assert process.returncode is not None
    return process.returncode, out, err.decode()


async def test_stream_writes_an_mp4_and_one_json_line(tmp_path, portrait, voice):
    peer, file = AvatarPeer(), tmp_path / "v.mp4"
    async with serving(peer) as target:
        code, out, err = await _liveact(
            "stream", portrait, voice, "--server", target, "--out", file, "--size", "64x48", "--fps", "20", "--seed", "7",
            "--prompt", "smiling", "--pacing", "fastest", "--idle", "hold", "--json",
        )  # fmt: skip
    assert code == 0, err
    [line] = out.decode().splitlines()
    shown = json.loads(line)
    assert (shown["frames"], shown["out"], shown["voice_s"]) == (20, str(file), 1.0)
    asked = peer.requests[0].config
    assert (asked.width, asked.height, asked.fps, asked.seed, asked.prompt) == (64, 48, 20, 7, "smiling")
    assert (asked.pacing, asked.idle_policy, asked.codec) == (
        pb2.PACING_FASTEST, pb2.IDLE_POLICY_HOLD, pb2.VIDEO_CODEC_H264,
    )  # fmt: skip
    assert asked.image == portrait.read_bytes()
    with av.open(str(file)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 20


async def test_stream_takes_raw_voice_from_a_pipe_and_plays_into_one(portrait):
    peer = AvatarPeer()
    async with serving(peer) as target:
        code, out, err = await _liveact(
            "stream", portrait, "-", "--rate", "24000", "--server", target, "--out", "-", stdin=tone(0.5, 24000)
        )
    assert code == 0, err
    assert b"".join(chunk.data for chunk in peer.received("audio")) == tone(0.5, 24000)
    assert peer.requests[0].config.audio_format.sample_rate_hz == 24000
    with av.open(io.BytesIO(out), format="mpegts") as container:
        assert sum(1 for _ in container.decode(video=0)) == 10


async def test_a_player_that_leaves_ends_the_stream_quietly(portrait, voice):
    peer = AvatarPeer()
    async with serving(peer) as target:
        read, write = os.pipe()
        os.close(read)
        process = await asyncio.create_subprocess_exec(
            *LIVEACT, "stream", portrait, voice, "--server", target, "--out", "-", "--pacing", "fastest",
            stdout=write, stderr=subprocess.PIPE,
        )  # fmt: skip
        os.close(write)
        _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    assert b"closed the pipe" in err
    assert b"Traceback" not in err


async def test_what_the_server_refuses_is_bad_input_with_its_reason(tmp_path, portrait, voice):
    from liveact_services.errors import fail

    peer = AvatarPeer()
    peer.refuse = fail("SIZE_UNSUPPORTED", "size 10x10: both sides must be positive multiples of 16")
    async with serving(peer) as target:
        code, out, err = await _liveact(
            "stream", portrait, voice, "--server", target, "--out", tmp_path / "v.mp4", "--size", "10x10", "--json"
        )
    assert code == 3
    assert json.loads(out)["error"]["reason"] == "SIZE_UNSUPPORTED"
    assert "liveact: SIZE_UNSUPPORTED: size 10x10" in err


async def test_ctrl_c_finishes_what_a_live_voice_has_said(tmp_path, portrait):
    peer = AvatarPeer()
    async with serving(peer) as target:
        process = await asyncio.create_subprocess_exec(
            *LIVEACT, "stream", portrait, "-", "--server", target, "--out", tmp_path / "v.mp4",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(tone(0.5, 16000))
        async with asyncio.timeout(30):
            while not peer.received("audio"):
                await asyncio.sleep(0.02)
        process.send_signal(signal.SIGINT)
        code = await asyncio.wait_for(process.wait(), 30)
    assert code == 0
    assert len(peer.received("close")) == 1
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 10


# ---- serve and demo ------------------------------------------------------------------------------------------------------

STAND_IN = """
import sys, threading, asyncio
sys.path.insert(0, {tests!r})
import liveact_services.service as service
from avatar_peer import AvatarPeer, serving

class Running:
    redis, checkpoint, console = "embedded", "untrained", "http://127.0.0.1:8000/"
    def __init__(self, config):
        self.loop, up = asyncio.new_event_loop(), threading.Event()
        async def serve():
            async with serving(AvatarPeer()) as self.address:
                self.ended = asyncio.Event()
                up.set()
                await self.ended.wait()
        self.thread = threading.Thread(target=self.loop.run_until_complete, args=(serve(),))
        self.thread.start()
        up.wait()
    def stop(self):
        self.loop.call_soon_threadsafe(self.ended.set)
        self.thread.join()
        print("stopped", file=sys.stderr)

def start_service(config, progress):
    print("noise of a library on stdout")
    progress("Gateway is healthy (1/1)")
    return Running(config)

service.start_service = start_service
from liveact_services.cli.main import main
main()
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> list[str]:
    """`liveact` with a peer in the place of the service."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN.format(tests=str(Path(__file__).parent)))
    return [sys.executable, str(script)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_prints_one_ready_line_and_stops_on_a_signal(tmp_path, stand_in, number):
    process = subprocess.Popen(
        [*stand_in, "serve", "--data-dir", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        assert process.stdout is not None
        ready = process.stdout.readline()
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        stack.pop_all()
    assert process.returncode == 0, err
    assert out == ""
    words = ready.split()
    assert words[:2] == ["LIVEACT", "READY"]
    fields = dict(word.split("=", 1) for word in words[2:])
    assert list(fields) == ["grpc", "console", "preset", "checkpoint", "redis", "startup_s"]
    assert fields["grpc"].startswith("127.0.0.1:")
    assert fields["console"].startswith("http://127.0.0.1:")
    assert (fields["preset"], fields["checkpoint"], fields["redis"]) == ("tiny", "untrained", "embedded")
    assert float(fields["startup_s"]) < 30
    assert "Gateway is healthy" in err
    assert "noise of a library" in err
    assert "stopped" in err


def test_serve_says_what_keeps_the_service_down(monkeypatch):
    import liveact_services.service as service

    def failing(config, progress):
        raise service.ServiceStartError("port 9000 on 127.0.0.1 cannot be taken: Address already in use")

    monkeypatch.setattr(service, "start_service", failing)
    result = run("serve")
    assert result.exit_code == 4
    assert "port 9000" in result.stderr
    assert result.stdout == ""


def test_demo_writes_the_video_and_measures_both_passes(tmp_path, stand_in, portrait, voice):
    file = tmp_path / "demo.mp4"
    result = subprocess.run(
        [*stand_in, "demo", "--out", file, "--image", portrait, "--voice", voice, "--json"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    [line] = result.stdout.splitlines()
    shown = json.loads(line)
    assert shown["realtime"]["frames"] == shown["fastest"]["frames"] == 20
    assert shown["time_to_first_frame_s"] > 0.9  # the peer answers after the whole voice
    assert shown["realtime_factor"] == shown["fastest"]["realtime_factor"]
    assert shown["realtime_factor"] < shown["realtime"]["realtime_factor"]
    assert shown["frames_per_second"] > 0
    assert "untrained" in result.stderr
    assert "stopped" in result.stderr
    with av.open(str(file)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert float(video.duration * video.time_base) == pytest.approx(1.0, abs=1e-3)
        assert float(sound.duration * sound.time_base) == pytest.approx(1.0, abs=0.07)


# ---- render --------------------------------------------------------------------------------------------------------------


def test_render_writes_the_bare_pipeline_to_an_mp4(tmp_path, portrait, voice):
    result = run(
        "render", portrait, voice, "--out", tmp_path / "r.mp4", "--size", "32x32", "--threads", "1", "--json",
        "--checkpoint", "untrained",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    shown = last_json(result.stdout)
    assert (shown["frames"], shown["video_s"]) == (21, 1.05)
    assert "noise" in result.stderr
    with av.open(str(tmp_path / "r.mp4")) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (32, 32)
        assert container.duration / 1e6 == pytest.approx(1.05, abs=0.07)
        assert sum(1 for _ in container.decode(video=0)) == 21
