"""Every command and program of README.md and docs/ is executed as it stands; what cannot be here is parsed, and says why.

`tests/docs_commands.py` tells which is which. Commands of a document run in its order, in a folder made like a working copy.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import docs_commands as docs
from certificates import Authority
from docs_commands import ROOT, Parsed, Runs, Serves
from hub_fixtures import hub_of
from kube_fixtures import SERVICE, fake_cluster, kubeconfig
from kuberay_fixtures import FakeKubeRay, Slow, config_of
from liveact_models.checkpoint.layouts import shipped_folder
from liveact_models.weights.releases import release
from liveact_services.cli.main import app
from liveact_services.service import free_port
from liveact_services.sessions import EmbeddedValkey

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

START_S = 300
ARECORD = """#!/bin/sh
exec {python} -c 'import sys, wave, numpy
voice = wave.open("examples/voice.wav")
rate, samples = voice.getframerate(), numpy.frombuffer(voice.readframes(voice.getnframes()), "<i2")
at = numpy.arange(0, len(samples) - 1, rate / 16000)
sys.stdout.buffer.write(numpy.interp(at, numpy.arange(len(samples)), samples).astype("<i2").tobytes())'
"""
FFPLAY = """#!/bin/sh
got=$(wc -c); echo "ffplay got $got bytes" >&2; test "$got" -gt 10000
"""


class Workbench:
    """A folder like a working copy, an environment, and the service that a document has started."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.address = ""
        self.out = ""
        self.notes: dict[str, str] = {}
        self.exchange: Callable[[dict[str, Any]], None] = lambda config: None
        self._service: subprocess.Popen[str] | None = None
        for name in ("examples", "tests", "helm", "docs", "protos", "models", "services", "Makefile", "pyproject.toml"):
            (folder / name).symlink_to(ROOT / name)
        (folder / "constraints.txt").symlink_to(ROOT / "constraints.txt")
        (folder / ".ci").symlink_to(ROOT / ".ci")
        self._share_environment()
        tools = folder / "tools"
        tools.mkdir()
        for name, text in (("arecord", ARECORD.format(python=sys.executable)), ("ffplay", FFPLAY)):
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        # Not below `folder`: Ray's sockets have long names.
        ray = tempfile.mkdtemp(prefix="la", dir="/tmp")
        stack.callback(shutil.rmtree, ray, ignore_errors=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LIVEACT_", "HF_", "RAY_"))}
        path = f"{folder / '.venv' / 'bin'}:{tools}:{kept['PATH']}"
        self.environment = {**kept, "PATH": path, "RAY_TMPDIR": ray, "COLUMNS": "140"}
        stack.callback(self.stop)

    def _share_environment(self) -> None:
        # `make` takes the environment as set up: it is the one that runs this test.
        venv = self.folder / ".venv"
        venv.mkdir()
        for path in Path(sys.prefix).iterdir():
            if path.name != ".installed":
                (venv / path.name).symlink_to(path)
        (venv / ".installed").touch()

    def run(self, command: str, how: Runs) -> None:
        text = f"{command} {how.extra}".strip()
        if "liveact stream" in text and self.address not in ("", "127.0.0.1:9000"):
            text = re.sub(r"liveact stream \S+ \S+", rf"\g<0> --server {self.address}", text)
        environment = {**self.environment, **self._its_ray()}
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", text], cwd=self.folder, env=environment, capture_output=True, text=True,
            timeout=how.limit_s, check=False,
        )  # fmt: skip
        self.out = done.stdout
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        assert done.returncode in how.exit_codes, f"{text}\nended with {done.returncode}\n{tail}"

    def _its_ray(self) -> dict[str, str]:
        """ "The cluster of this machine" is any that Ray finds there; it is to be the service's."""
        if not self.address:
            return {}
        (port,) = Path(self.environment["RAY_TMPDIR"], "ray", "session_latest").glob("gcs_server_port_*")
        return {"RAY_ADDRESS": f"127.0.0.1:{port.read_text().strip()}", "RAY_AUTH_MODE": "token"}

    def serve(self, command: str, how: Serves) -> None:
        """Start it and wait until it says that it is ready."""
        self.stop()
        text = f"{command} {how.extra}".strip()
        wanted = int(found[1]) if (found := re.search(r"--port (\d+)", text)) else 9000
        if not (_free(wanted) and _free(8000)):
            text += f" --port {free_port()} --set http_port={free_port()}"
        with (self.folder / "serve.log").open("w") as log:
            self._service = subprocess.Popen(
                ["bash", "-c", f"exec env {text}"], cwd=self.folder, env=self.environment, text=True,
                stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip
        assert self._service.stdout is not None
        line = self._service.stdout.readline()
        assert line.startswith("LIVEACT READY grpc="), line + (self.folder / "serve.log").read_text()[-2000:]
        self.address = line.split("grpc=")[1].split()[0]

    def stop(self) -> None:
        service, self._service, self.address = self._service, None, ""
        if service is None:
            return
        service.send_signal(signal.SIGTERM)
        try:
            assert service.wait(90) == 0, "SIGTERM ends the service well"
        finally:
            service.kill()

    def program(self, text: str) -> None:
        """Run it against a service, of its own if the document started none."""
        if not self.address:
            self.serve("liveact serve", Serves())
        text = text.replace("127.0.0.1:9000", self.address)
        done = subprocess.run(
            [sys.executable, "-c", text], cwd=self.folder, env=self.environment, capture_output=True, text=True,
            timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    with ExitStack() as stack:
        yield Workbench(tmp_path, stack)


# ---- what stands in for what is not here: (workbench, command) -> the command as it is run


def in_readme(bench: Workbench, command: str) -> str:
    if "redis://localhost:6379/0" not in command:
        return command
    valkey = bench.stack.enter_context(EmbeddedValkey(bench.folder / "redis"))
    return command.replace("redis://localhost:6379/0", valkey.url)


def in_benchmarks(bench: Workbench, command: str) -> str:
    if command == "liveact calibrate":
        shutil.copytree(shipped_folder("tiny"), bench.folder / "weights")
        bench.environment["LIVEACT_CHECKPOINT"] = str(bench.folder / "weights")
    elif command.startswith("liveact bench denoise"):
        del bench.environment["LIVEACT_CHECKPOINT"]
    return command


def in_operations(bench: Workbench, command: str) -> str:
    if "KUBECONFIG" not in bench.environment:
        cluster = bench.stack.enter_context(fake_cluster())
        cluster.put("v1/secrets", f"{SERVICE}-ray-auth", {"data": {"auth_token": "dG9rZW4="}})
        cluster.dashboard = lambda path, query, token: json.dumps(DASHBOARD.get(path, "line of session-7")).encode()
        bench.environment["KUBECONFIG"] = str(kubeconfig(cluster, bench.folder / "kubeconfig"))
        operator = bench.stack.enter_context(FakeKubeRay(cluster, Slow))
        operator.until_serving(20)
        bench.notes["image"] = "1"
        bench.exchange = lambda config: cluster.kube().exchange(cluster.kube().ray_service(), config)
    if command == "liveact cluster rollout":
        # Somebody has upgraded the chart a moment ago.
        bench.notes["image"] += "1"
        bench.exchange(config_of(f"liveact:{bench.notes['image']}"))
        time.sleep(1)
    return command.replace("NODE", "two").replace("SESSION", "session-7")


DASHBOARD = {
    "nodes": {"result": True, "data": {"summary": [{"raylet": {"nodeId": "n1", "state": "ALIVE"}}]}},
    "api/v0/logs": {"result": True, "data": {"result": {"serve": ["serve/replica_liveact_Denoiser_a.log"]}}},
}


def in_trust(bench: Workbench, command: str) -> str:
    if not bench.address:
        bench.serve("liveact serve", Serves())
        authority = Authority(bench.folder, "authority")
        authority.signer("signer")
    if "avatars/" in command:
        text = (
            "import asyncio, pathlib; from liveact_services.client import AvatarClient\n"
            "async def make():\n"
            f"    async with AvatarClient('{bench.address}') as client:\n"
            "        print((await client.create_avatar(pathlib.Path('examples/portrait.jpg').read_bytes())).name)\n"
            "asyncio.run(make())"
        )
        bench.run(f"{sys.executable} -c {shlex.quote(text)}", Runs())
        return command.replace("avatars/5d0af7a1c0ffee42", bench.out.strip().splitlines()[-1])
    return command


def in_scaling(bench: Workbench, command: str) -> str:
    if not bench.address:
        bench.serve("liveact serve", Serves())
    if "5hh4kdw1" not in command:
        return command
    bench.run("liveact drain --json", Runs())
    rows = json.loads(bench.out.splitlines()[-1])["replicas"]
    # One that was let go is no more by the time of --undo.
    wanted = "VaeDecoder" if "--undo" in command else "Denoiser"
    return command.replace("5hh4kdw1", next(row["replica"] for row in rows if row["deployment"] == wanted))


def in_tenants(bench: Workbench, command: str) -> str:
    if command.startswith("liveact tenants check"):
        key, line = bench.out.splitlines()[0], next(line for line in bench.out.splitlines() if "sha256" in line)
        bench.notes["key"] = key
        text = docs.fences("docs/tenants.md", "yaml")[0]
        assert "    keys:\n" in text
        (bench.folder / "tenants.yaml").write_text(text.replace("    keys:\n", f"    keys:\n      {line.strip()}\n"))
    return command.replace("la_...", bench.notes.get("key", ""))


def in_training(bench: Workbench, command: str) -> str:
    folder = bench.folder / "out" / "tiny" / "checkpoint"
    if not folder.exists():
        shutil.copytree(shipped_folder("tiny"), folder)
    return command


def in_weights(bench: Workbench, command: str) -> str:
    folder = bench.folder / "checkpoints" / "soulx-liveact"
    if "HF_ENDPOINT" not in bench.environment:
        bench.environment["HF_ENDPOINT"] = bench.stack.enter_context(hub_of(_released())).endpoint
    if "pull" not in command and not (folder / "liveact.json").exists():
        assert (folder / "weights.json").exists(), "they were pulled"
        shutil.rmtree(folder)
        shutil.copytree(shipped_folder("tiny"), folder)
        config = {"preset": "tiny", "checkpoint": "checkpoints/soulx-liveact"}
        (bench.folder / "service.yaml").write_text(yaml.safe_dump(config))
        shutil.copytree(folder, folder.with_name("mine"))
    return command.replace("--preset soulx-liveact-18b", "--preset tiny")


def _released() -> dict[str, dict[str, bytes]]:
    model, voice = (source.repo for source in release("soulx-liveact").sources)
    names = [
        "config.json", "diffusion_pytorch_model.safetensors", "Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth",
        "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth", "google/umt5-xxl/tokenizer.json",
    ]  # fmt: skip
    return {model: {name: name.encode() for name in names}, voice: {"pytorch_model.bin": b"voice"}}


STAND_INS: dict[str, Callable[[Workbench, str], str]] = {
    "README.md": in_readme,
    "docs/benchmarks.md": in_benchmarks,
    "docs/operations.md": in_operations,
    "docs/scaling.md": in_scaling,
    "docs/tenants.md": in_tenants,
    "docs/training.md": in_training,
    "docs/trust.md": in_trust,
    "docs/weights.md": in_weights,
}


# ---- what is only parsed


def parse(command: str, bench: Workbench) -> None:
    """Whether the program would know the command, and the files that it names are there."""
    words = shlex.split(command)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    match words:
        case ["liveact", *rest]:
            done = CliRunner().invoke(app, [*rest, "--help"])
            assert done.exit_code == 0, f"{command}: {done.output}"
        case ["make", *rest]:
            bench.run(f"make -n {shlex.join(rest)}", Runs())
        case ["pip", "install", wanted]:
            extra = wanted.partition("[")[2].rstrip("]")
            assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        case ["python", "-m", "pytest", *rest]:
            paths = [word for word in rest if word.startswith("tests/")]
            assert paths
            assert all((ROOT / path).exists() for path in paths)
        case ["helm", "install", *rest]:
            bench.run(f"helm template {shlex.join(rest)}", Runs())
        case ["helm", *rest]:
            bench.run(f"helm {shlex.join(rest)} --help", Runs())
        case _:
            pytest.fail(f"{command}: nobody knows how to parse it")


def test_an_unknown_option_is_no_command(bench: Workbench) -> None:
    for wrong in ("liveact bench load --alive", "liveact bend", "make toast", "pip install 'liveact-serve[toast]'"):
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            parse(wrong, bench)


# ---- all of it


def test_every_command_has_a_line() -> None:
    assert docs.open_questions() == []


@pytest.mark.parametrize("document", sorted({*docs.COMMANDS, *docs.PROGRAMS}, key=docs.documents().index))
def test_the_commands_of(document: str, bench: Workbench, capsys: pytest.CaptureFixture[str]) -> None:
    tails = iter(docs.PROGRAMS.get(document, []))

    def told(what: str, became: str) -> None:
        with capsys.disabled():
            print(f"{document}: {what}\n    {became}", flush=True)

    for language, body in docs.entries(document):
        if language == "python":
            began = time.monotonic()
            bench.program(body + next(tails))
            told("a program", f"ran, {time.monotonic() - began:.0f} s")
        for command in docs.commands_in(body) if language == "" else ():
            how, began = docs.COMMANDS[document][command], time.monotonic()
            match how:
                case Parsed():
                    parse(command, bench)
                    told(command, f"only parsed: {how.reason}")
                    continue
                case Serves():
                    bench.serve(STAND_INS.get(document, _as_it_is)(bench, command), how)
                case Runs():
                    bench.run(STAND_INS.get(document, _as_it_is)(bench, command), how)
            beside = "; ".join([f"with {how.extra}"] * bool(how.extra) + [how.within] * bool(how.within))
            told(command, f"ran, {time.monotonic() - began:.0f} s{f' ({beside})' if beside else ''}")


def _as_it_is(bench: Workbench, command: str) -> str:
    return command
