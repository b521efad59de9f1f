"""Every command of README.md and docs/, and what `make docs-test` does with it: run, or only parse, and why.

A fence without a language holds commands; `text` is what a command prints, `python` a program, `yaml` a configuration.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"\s+# .*$")
LANGUAGES = {"", "text", "python", "yaml"}

CLUSTER = "needs a Kubernetes cluster"
REGISTRY = "installs from a package registry"
MINUTES = "takes many minutes"
ELSEWHERE = "needs a service elsewhere"
HOURS = "takes hours"
RUN = "needs a run of hours"
STAND_IN_WEIGHTS = "the shipped weights in that folder"
STAND_IN_CLUSTER = "an API server in memory"
STAND_IN_OPERATOR = f"{STAND_IN_CLUSTER}, and KubeRay by script"
SIGNED = "a certificate of the test's own"
JUDGES = (0, 1)
"""Of a command that says by its exit code what it thinks of the machine."""


@dataclass(frozen=True)
class Runs:
    """It is run, in the document's order, and must end with one of `exit_codes`."""

    extra: str = ""
    """Appended to it: what makes it short, or has it find what the test started."""
    within: str = ""
    """What it finds in place of what is not here."""
    exit_codes: tuple[int, ...] = (0,)
    limit_s: float = 480


@dataclass(frozen=True)
class Serves:
    """It starts a service, which stays until the document starts another or ends."""

    extra: str = ""
    within: str = ""


@dataclass(frozen=True)
class Parsed:
    """It is not run: its command, options and files are checked, and that is all."""

    reason: str


How = Runs | Serves | Parsed

COMMANDS: dict[str, dict[str, How]] = {
    "README.md": {
        "make demo": Runs(),
        "make test": Parsed("is the suite that this test belongs to"),
        "make setup": Parsed(REGISTRY),
        ". .venv/bin/activate": Runs(),
        "liveact serve": Serves(),
        "liveact stream examples/portrait.jpg examples/voice.wav --out out/hello.mp4": Runs(),
        "arecord -f S16_LE -r 16000 -c 1 -t raw | liveact stream examples/portrait.jpg - --out - | ffplay -": Runs(
            within="arecord gives examples/voice.wav, ffplay counts the bytes"
        ),
        "LIVEACT_DENOISER__REPLICAS=2 liveact serve --port 9001 --set sessions.max_sessions=4 --redis-url "
        "redis://localhost:6379/0": Serves(within="a Valkey of the test's own at another port"),
        "helm install avatars helm/liveact --namespace avatars --create-namespace --values "
        "helm/liveact/examples/laptop-cpu.yaml": Parsed(f"{CLUSTER}; helm template renders it"),
        "helm --namespace avatars test avatars": Parsed(CLUSTER),
    },
    "docs/benchmarks.md": {
        "liveact demo --json": Parsed("make demo in README.md runs it"),
        "liveact bench graph --json": Parsed(MINUTES),
        "liveact bench memory --json": Runs(extra="--blocks 20", exit_codes=JUDGES),
        "liveact bench exports --json": Parsed(MINUTES),
        "liveact bench chaos --kills 100 --json": Parsed(MINUTES),
        "python -m pytest -m slow -s tests/test_hung_parts.py": Parsed(MINUTES),
        "python -m pytest -m slow -s tests/test_store_minute.py": Parsed(MINUTES),
        "python -m pytest -m slow -s tests/test_loop_service.py": Parsed(MINUTES),
        "python -m pytest -m slow -s tests/test_resume.py tests/test_takeover_service.py": Parsed(MINUTES),
        "python -m pytest -m slow -s tests/test_redeploy.py": Parsed(MINUTES),
        "python -m pytest -m slow -s tests/test_upgrade.py": Parsed(MINUTES),
        "python -m pytest -m slow -s tests/test_ranks_serve.py": Parsed(MINUTES),
        "liveact bench stream --seconds 3600 --in-process 60 --json": Parsed(HOURS),
        "LIVEACT_CONSOLE_SECONDS=300 make test-browser": Parsed(MINUTES),
        "liveact bench load --json": Runs(),
        "liveact bench load --live --json": Parsed(MINUTES),
        "liveact bench load --address HOST:PORT --token KEY --seconds 600 --length 20 --json": Parsed(ELSEWHERE),
        "liveact bench flops --preset soulx-liveact-18b --size 512x512 --json": Runs(),
        "liveact parity tests/golden --json": Runs(),
        "liveact calibrate": Runs(extra="--size 64x64 --blocks 3", within="a copy of the shipped weights"),
        "liveact bench precision --size 64x64 --threads 1 --json": Runs(extra="--blocks 3"),
        "liveact bench denoise --size 256x256 --json": Runs(extra="--blocks 1"),
        "liveact bench block --json": Runs(extra="--blocks 3"),
        "liveact bench decode --json": Runs(extra="--blocks 3"),
        "liveact bench e2e --seconds 20 --json": Parsed(MINUTES),
        "liveact bench e2e --address HOST:PORT --token KEY --clients 4 --clients 8 --json": Parsed(ELSEWHERE),
    },
    "docs/clients.md": {
        "pip install 'liveact-serve[livekit]'": Parsed(REGISTRY),
        "pip install 'liveact-serve[pipecat]'": Parsed(REGISTRY),
        "pip install 'liveact-serve[webrtc]'": Parsed(REGISTRY),
        "liveact webrtc --portrait examples/portrait.jpg": Parsed(
            "stays until it is ended; tests/test_webrtc_browser.py runs it"
        ),
        "make stubs-typescript": Parsed(f"{REGISTRY} (npm)"),
        "make stubs-go": Parsed("needs protoc-gen-go and protoc-gen-go-grpc"),
    },
    "docs/evaluation.md": {
        "liveact evaluate lips --many-steps 0 --voice tests/voices/arctic --voice en_US-joe-medium.onnx": Parsed(
            "needs a voice that is not in this repository"
        ),
        "liveact evaluate steps --teacher DIR": Parsed(RUN),
        "liveact evaluate prompts": Parsed(MINUTES),
        "liveact evaluate drift": Runs(extra="--minutes 0.2 --no-contrast"),
        "liveact evaluate forcing --run DIR --steps 250 --clips 8 --blocks 8": Parsed(RUN),
    },
    "docs/observability.md": {
        "liveact serve --set telemetry.trace_dir=out/traces": Serves(),
        "liveact stream examples/portrait.jpg examples/voice.wav --trace": Runs(),
        "liveact trace out/traces --opening": Runs(),
    },
    "docs/operations.md": {
        "liveact cluster status --namespace avatars": Runs(within=STAND_IN_CLUSTER),
        "liveact cluster rollout --image registry.example.com/avatars/liveact-serve-cpu:0.2.0 --gpu-image "
        "registry.example.com/avatars/liveact-serve-gpu:0.2.0": Runs(
            extra="--every 0.1 --settled 0.1", within=STAND_IN_OPERATOR
        ),
        "liveact cluster rollout": Runs(extra="--every 0.1 --settled 0.1", within=STAND_IN_OPERATOR),
        "liveact cluster drain NODE": Runs(within=STAND_IN_CLUSTER),
        "liveact cluster scale gpu --min 2 --max 8": Runs(within=STAND_IN_CLUSTER),
        "liveact cluster logs Denoiser --contains SESSION": Runs(within=STAND_IN_CLUSTER),
    },
    "docs/scaling.md": {
        "liveact drain": Runs(),
        "liveact drain 5hh4kdw1 --wait 600": Runs(within="a replica that runs"),
        "liveact drain 5hh4kdw1 --let-go": Runs(within="a replica that runs"),
        "liveact drain 5hh4kdw1 --undo": Runs(within="a replica that runs"),
        "liveact drain --all": Runs(),
    },
    "docs/simulator.md": {"liveact bench simulate": Runs(extra="--quick")},
    "docs/tenants.md": {
        "liveact tenants new-key acme": Runs(),
        "liveact tenants check tenants.yaml": Runs(within="the file above, with the new key"),
        "liveact serve --set tenants=tenants.yaml": Serves(within="the same file"),
        "LIVEACT_TOKEN=la_... liveact stream examples/portrait.jpg examples/voice.wav --consent REF-2026-0117": Runs(
            within="the new key"
        ),
    },
    "docs/training.md": {
        "pip install 'liveact-serve[train]'": Parsed(REGISTRY),
        "liveact train all --preset smoke --run out/smoke": Parsed(MINUTES),
        "liveact train all --preset tiny --run out/tiny": Parsed(HOURS),
        "liveact train status --run out/tiny": Parsed(RUN),
        "liveact serve --checkpoint out/tiny/checkpoint": Serves(within=STAND_IN_WEIGHTS),
        "liveact evaluate judge --train": Parsed(MINUTES),
        "liveact evaluate lips --checkpoint out/tiny/checkpoint": Runs(
            extra="--clips 1 --blocks 2 --many-steps 0 --no-phonemes", within=STAND_IN_WEIGHTS
        ),
        "liveact evaluate drift --checkpoint out/tiny/checkpoint": Parsed("docs/evaluation.md runs it"),
        "liveact evaluate prompts --checkpoint out/tiny/checkpoint": Parsed(MINUTES),
        "liveact evaluate steps --checkpoint out/tiny/checkpoint": Parsed(MINUTES),
        "liveact evaluate forcing --run out/tiny": Parsed(RUN),
    },
    "docs/trust.md": {
        "liveact stream examples/portrait.jpg examples/voice.wav --consent REF-2026-0117": Runs(),
        "liveact stream avatars/5d0af7a1c0ffee42 examples/voice.wav": Runs(within="an avatar that was made"),
        "pip install 'liveact-serve[c2pa]'": Parsed(REGISTRY),
        "liveact stream examples/portrait.jpg examples/voice.wav --out out/hello.mp4 --c2pa-cert signer.crt --c2pa-key "
        "signer.key": Runs(within=SIGNED),
        "liveact verify out/hello.mp4 --trust authority.pem": Runs(within=SIGNED),
        "liveact audit --since 2h": Runs(),
        "liveact audit --tenant acme --session 5d0a --json": Runs(),
    },
    "docs/weights.md": {
        "liveact weights pull soulx-liveact --dry-run": Runs(within="a hub of the test's own"),
        "liveact weights pull soulx-liveact --to checkpoints/soulx-liveact": Runs(within="a hub of the test's own"),
        "liveact weights verify checkpoints/soulx-liveact": Runs(within=STAND_IN_WEIGHTS),
        "liveact doctor --config service.yaml": Runs(within=STAND_IN_WEIGHTS),
        "liveact serve --config service.yaml": Parsed("needs a GPU"),
        "liveact weights show checkpoints/mine": Runs(within=STAND_IN_WEIGHTS),
        "liveact weights verify checkpoints/mine": Runs(within=STAND_IN_WEIGHTS),
        "liveact doctor --checkpoint checkpoints/mine --preset soulx-liveact-18b": Runs(
            within=f"{STAND_IN_WEIGHTS}, and their preset"
        ),
        "liveact render examples/portrait.jpg examples/voice.wav --checkpoint checkpoints/mine --preset "
        "soulx-liveact-18b --out out/mine.mp4": Runs(within=f"{STAND_IN_WEIGHTS}, and their preset"),
        "liveact serve --checkpoint checkpoints/mine --preset soulx-liveact-18b": Parsed(
            "needs a GPU; docs/training.md serves another folder"
        ),
        "liveact weights convert checkpoints/soulx-liveact --fp8 checkpoints/soulx-liveact-fp8": Runs(
            within=STAND_IN_WEIGHTS
        ),
    },
}

PROGRAMS: dict[str, list[str]] = {
    "README.md": [""],
    "docs/trust.md": [""],
    "docs/clients.md": [
        f"\nimport asyncio\n\nassert asyncio.run({name}('127.0.0.1:9000')) >= 8.3 * 20\n"
        for name in ("greet", "patient")
    ],
}
"""What is appended to each program of a document, in their order; all are run against a service."""


def documents() -> list[str]:
    """README.md and every page of docs/."""
    return ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


def fences(document: str, language: str) -> list[str]:
    """What the fences of that language hold."""
    return [text for found, text in entries(document) if found == language]


def entries(document: str) -> list[tuple[str, str]]:
    """The language and the text of every fence, without the indentation of a list that it stands in."""
    found = FENCE.findall((ROOT / document).read_text())
    return [(language, textwrap.dedent(body)) for _, language, body in found]


def commands_in(body: str) -> list[str]:
    """The commands of a fence, without the comments beside them."""
    lines = body.replace("\\\n", " ").splitlines()
    return [text for line in lines if (text := COMMENT.sub("", line).strip()) and not text.startswith("#")]


def commands(document: str) -> list[str]:
    """Every command of a document, in its order."""
    return [command for body in fences(document, "") for command in commands_in(body)]


def open_questions() -> list[str]:
    """What is in the documents and not told of here, and the other way around."""
    found = []
    for document in documents():
        there, told = commands(document), COMMANDS.get(document, {})
        found += [
            f"{document}: {command!r} has no line in tests/docs_commands.py" for command in there if command not in told
        ]
        found += [f"{document}: {command!r} is gone from it" for command in told if command not in there]
        programs = len(fences(document, "python"))
        if programs != len(PROGRAMS.get(document, [])):
            found.append(f"{document}: {programs} programs, and {len(PROGRAMS.get(document, []))} in PROGRAMS")
        found += [
            f"{document}: a fence of {language!r}" for language, _ in entries(document) if language not in LANGUAGES
        ]
    found += [f"{document} is gone" for document in {*COMMANDS, *PROGRAMS} - {*documents()}]
    return found
