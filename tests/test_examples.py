"""The examples run, as their first lines say, against a real service: frameworks, TypeScript and Go where they are installed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import pytest

from conftest import EXAMPLES, ROOT, Service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DEBIAN_GO = Path("/usr/share/gocode")
GO_PACKAGES = "golang-go protoc-gen-go protoc-gen-go-grpc golang-github-golang-protobuf-1-5-dev golang-google-grpc-dev"


def needs(module: str, extra: str) -> pytest.MarkDecorator:
    parent = module.partition(".")[0]
    missing = importlib.util.find_spec(parent) is None or importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"needs {module}: pip install 'liveact-serve[{extra}]'")


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def film_of(path: Path) -> tuple[int, float]:
    """Frames and seconds of sound."""
    with av.open(str(path)) as film:
        frames = sum(1 for _ in film.decode(video=0))
    with av.open(str(path)) as film:
        return frames, sum(frame.samples / frame.sample_rate for frame in film.decode(audio=0))


@needs("hibari", "train")
def test_an_llm_a_voice_and_liveact_hold_a_conversation(service: Service, tmp_path: Path) -> None:
    out = tmp_path / "conversation.mp4"
    told = run(sys.executable, EXAMPLES / "llm_tts_liveact.py", "--server", service.address, "--out", out)
    assert "interrupted" in told
    stale = int(re.search(r"of which (\d+) stood still", told)[1])  # type: ignore[index]
    assert stale > 0
    frames, sound = film_of(out)
    assert frames > 100
    assert sound == pytest.approx(frames / 20, abs=0.5)


@needs("hibari", "train")
@needs("livekit.agents", "livekit")
def test_the_livekit_example_runs_to_its_end(service: Service, tmp_path: Path) -> None:
    out = tmp_path / "livekit.mp4"
    told = run(sys.executable, EXAMPLES / "livekit_agent.py", "--server", service.address, "--out", out)
    assert len(re.findall(r"^spoke for .*, interrupted$", told, re.MULTILINE)) == 1
    assert len(re.findall(r"^spoke for [\d.]+ s$", told, re.MULTILINE)) == 1
    assert film_of(out)[0] > 50


@needs("hibari", "train")
@needs("pipecat", "pipecat")
def test_the_pipecat_example_runs_to_its_end(service: Service, tmp_path: Path) -> None:
    out = tmp_path / "pipecat.mp4"
    told = run(sys.executable, EXAMPLES / "pipecat_bot.py", "--server", service.address, "--out", out)
    assert "after the interrupt" in told
    assert film_of(out)[0] > 50


def spoken(out: Path, told: str) -> bytes:
    """The sound a client in another language wrote, its picture checked."""
    frames, samples = map(int, re.search(r"frames=(\d+) samples=(\d+)", told).groups())  # type: ignore[union-attr]
    with av.open(f"{out}.h264", format="h264") as film:
        assert sum(1 for _ in film.decode(video=0)) == frames >= 8.3 * 20
    sound = Path(f"{out}.pcm").read_bytes()
    assert len(sound) == 2 * samples == 2 * frames * 24000 // 20
    return sound


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs node and npm")
def test_typescript_stubs_talk_to_the_service(service: Service, tmp_path: Path) -> None:
    work = tmp_path / "examples" / "typescript"
    shutil.copytree(EXAMPLES / "typescript", work, ignore=shutil.ignore_patterns("node_modules", "generated", "build"))
    run("npm", "ci", "--no-fund", "--no-audit", cwd=work)
    (work / "generated").mkdir()
    run(
        sys.executable, "-m", "grpc_tools.protoc", "-I", "protos",
        f"--plugin=protoc-gen-ts={work}/node_modules/.bin/protoc-gen-ts", f"--ts_out={work}/generated",
        "--ts_opt=long_type_bigint,generate_dependencies", "protos/liveact/v1/avatar.proto",
    )  # fmt: skip
    run("npm", "run", "build", cwd=work)
    out = tmp_path / "talk"
    told = run(
        "node", "build/talk.js", service.address, EXAMPLES / "portrait.jpg", EXAMPLES / "voice.wav", out, cwd=work
    )
    assert any(spoken(out, told))


@pytest.mark.skipif(
    shutil.which("protoc-gen-go-grpc") is None or not (DEBIAN_GO / "src/google.golang.org/grpc").is_dir(),
    reason=f"needs Debian's Go and its libraries: apt-get install {GO_PACKAGES}",
)
def test_go_stubs_talk_to_the_service(service: Service, tmp_path: Path) -> None:
    work = tmp_path / "go" / "src" / "liveact"
    shutil.copytree(EXAMPLES / "go", work, ignore=shutil.ignore_patterns("v1"))
    options = "module=liveact,Mliveact/v1/avatar.proto=liveact/v1"
    run(
        sys.executable, "-m", "grpc_tools.protoc", "-I", "protos", f"--go_out={work}", f"--go_opt={options}",
        f"--go-grpc_out={work}", f"--go-grpc_opt={options}", "protos/liveact/v1/avatar.proto",
    )  # fmt: skip
    paths = os.environ.get("GOPATH", "").split(os.pathsep)
    gopath = os.pathsep.join([str(tmp_path / "go"), *filter(None, paths), str(DEBIAN_GO)])
    run("go", "build", "-o", tmp_path / "talk-go", ".", cwd=work, GO111MODULE="off", GOPATH=gopath)
    out = tmp_path / "talk"
    told = run(tmp_path / "talk-go", service.address, EXAMPLES / "portrait.jpg", EXAMPLES / "voice.wav", out)
    assert any(spoken(out, told))
