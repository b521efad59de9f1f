"""The documents say what the code does: errors, commands, paths, configuration, and an example that runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
import typer
from pydantic import BaseModel

from conftest import ROOT, Service
from docs_commands import FENCE, fences, open_questions
from liveact_models.config import PRESETS
from liveact_services.audit.event import Action
from liveact_services.cli.exits import ExitCode
from liveact_services.cli.main import app
from liveact_services.config import ServiceConfig, load_config
from liveact_services.errors import REASONS, Kind, Reason

DOCUMENTS = (
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    "helm/liveact/README.md",
)
CODE = re.compile(r"`([^`\n]+)`")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LIVEACT_")]:
        monkeypatch.delenv(name)


def read(document: str) -> str:
    return (ROOT / document).read_text()


def code(document: str) -> Iterator[str]:
    """Every line of the fences that are no program, and every piece of inline code."""
    for body in fences(document, ""):
        yield from body.splitlines()
    yield from CODE.findall(FENCE.sub("", read(document)))


# ---- errors ------------------------------------------------------------------------------------------------------------------


def row(name: str, reason: Reason) -> str:
    carried = {Kind.PLAIN: "", Kind.NOTICE: "event"}.get(reason.kind, reason.kind.value)
    field = f"`{reason.field}`" if reason.field else ""
    return f"| `{name}` | {reason.code.name} | {carried} | {field} | {reason.meaning} |"


def test_errors_lists_exactly_the_catalogue() -> None:
    reasons = read("docs/errors.md").split("\n## Reasons\n")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `.*$", reasons, re.MULTILINE)
    assert sorted(listed) == sorted(row(name, reason) for name, reason in REASONS.items())


def test_troubleshooting_has_every_reason_once() -> None:
    table = read("docs/troubleshooting.md").split("\n## By reason\n")[1]
    cells = re.findall(r"^\| (`.*?) \| ", table, re.MULTILINE)
    assert sorted(name for cell in cells for name in CODE.findall(cell)) == sorted(REASONS)


# ---- commands ----------------------------------------------------------------------------------------------------------------


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_named_is_there(document: str) -> None:
    named = {target for text in code(document) for target in re.findall(r"(?:^|&& )make ([a-z-]+)", text)}
    assert named <= targets()


def calls(document: str) -> Iterator[list[str]]:
    """The words after each `liveact` that is run."""
    for text in code(document):
        for part in text.split(" | "):
            words = shlex.split(part.partition("  #")[0], posix=True) if "liveact" in part else []
            while words and re.fullmatch(r"[A-Z_]+=\S+", words[0]):
                words = words[1:]
            if words and words[0] == "liveact":
                yield words[1:]


def mistake(words: list[str]) -> str | None:
    """What of a command line `liveact` would not know; None when it knows all of it."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            return f"command {rest[0]!r}"
        command = command.commands[rest.pop(0)]
    options = {option for parameter in command.params for option in parameter.opts}
    unknown = [word for word in rest if word.startswith("--") and word not in {*options, "--help"}]
    return f"option {unknown[0]!r}" if unknown else None


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_liveact_command_named_is_there_with_its_options(document: str) -> None:
    assert {" ".join(words): found for words in calls(document) if (found := mistake(words))} == {}


def test_the_readme_names_every_command() -> None:
    root: Any = typer.main.get_command(app)
    every = {
        f"{name} {sub}" if sub else name
        for name, command in root.commands.items()
        for sub in getattr(command, "commands", {"": None})
    }
    table = read("README.md").split("\n## Command line\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `liveact ([a-z0-9 -]+)` \|", table, re.MULTILINE)) == every


def test_every_command_of_readme_and_docs_is_run_or_has_a_reason_not_to_be() -> None:
    """`make docs-test` runs them; this only says that none was forgotten."""
    assert open_questions() == []


def test_a_wrong_command_or_option_would_be_found() -> None:
    assert mistake(["bench", "speed"]) == "command 'speed'"
    assert mistake(["serve", "--ports", "1"]) == "option '--ports'"
    assert mistake(["stream", "a.jpg", "-", "--out", "-"]) is None


def test_the_readme_tells_the_exit_codes() -> None:
    told = {int(number) for number in re.findall(r"^\| (\d+) \| ", read("README.md"), re.MULTILINE)}
    assert told == {int(exit_code) for exit_code in ExitCode}


# ---- paths, configuration, limits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_and_link_leads_somewhere(document: str) -> None:
    text = FENCE.sub("", read(document))
    tops = ("protos/", "models/", "services/", "tests/", "docs/", "examples/", ".ci/", "helm/", "docker/")
    paths = {ROOT / name for name in CODE.findall(text) if name.startswith(tops) and " " not in name}
    links = {link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("https://")}
    paths |= {(ROOT / document).parent / link for link in links}
    assert [str(path) for path in sorted(paths) if not path.exists()] == []


def anchors(document: Path) -> set[str]:
    """What a link may name behind #, as GitHub makes it of the headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", document.read_text()), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", head)).lower().replace(" ", "-") for head in headings
    }


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_place_in_a_page_that_is_linked_is_there(document: str) -> None:
    links = re.findall(r"\]\(([^)#: ]*\.md)?#([^)]+)\)", FENCE.sub("", read(document)))
    here = ROOT / document
    lost = [f"{page}#{anchor}" for page, anchor in links if anchor not in anchors(here.parent / page if page else here)]
    assert lost == []


def test_the_readme_links_every_page() -> None:
    index = read("README.md").split("\n## Read on\n")[1]
    linked = set(re.findall(r"\]\((docs/\w[\w-]*\.md)", index))
    assert linked == {document for document in DOCUMENTS if document.startswith("docs/")}


TABLES = {
    name: type(value)
    for name, field in ServiceConfig.model_fields.items()
    if isinstance(value := field.get_default(call_default_factory=True), BaseModel)
}


def unknown_fields(text: str) -> list[str]:
    """What names, as `sessions.max_sessions` or `denoiser.ranks: 2` does, a field that its table has not."""
    named = (
        re.match(rf"(?:config\.)?({'|'.join(TABLES)})\.([a-z_0-9]+)\b(?![./(])", piece) for piece in CODE.findall(text)
    )
    return [
        found[0]
        for found in named
        if found and found[2] not in TABLES[found[1]].model_fields and found[0] not in list(Action)
    ]


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name.startswith(("README", "docs/"))])
def test_every_field_of_the_configuration_named_is_there(document: str) -> None:
    assert unknown_fields(FENCE.sub("", read(document))) == []


def test_a_field_that_is_not_there_would_be_found() -> None:
    assert unknown_fields("`sessions.max_session` and `sessions.max_sessions: 4`") == ["sessions.max_session"]


@pytest.mark.parametrize("number", range(len(fences("docs/scaling.md", "yaml"))))
def test_the_yaml_of_scaling_is_a_configuration(number: int, tmp_path: Path) -> None:
    (tmp_path / "service.yaml").write_text(fences("docs/scaling.md", "yaml")[number])
    load_config(tmp_path / "service.yaml")


SERVICES = ROOT / "services" / "liveact_services"
MODELS = ROOT / "models" / "liveact_models"


def test_every_file_architecture_speaks_of_is_there() -> None:
    text = FENCE.sub("", read("ARCHITECTURE.md"))
    names = {name for name in CODE.findall(text) if re.fullmatch(r"[\w/]+(\.py|/)", name)}
    folders = (ROOT, SERVICES, SERVICES / "conductor", MODELS, ROOT / "models")
    assert [name for name in sorted(names) if not any((folder / name).exists() for folder in folders)] == []


def test_the_yaml_of_the_readme_is_a_configuration(tmp_path: Path) -> None:
    (text,) = fences("README.md", "yaml")
    (tmp_path / "service.yaml").write_text(text)
    config = load_config(tmp_path / "service.yaml")
    assert (config.preset, config.denoiser.num_gpus) == ("soulx-liveact-18b", 0.5)
    stages = (config.conditioner, config.audio_encoder, config.vae_encoder, config.denoiser, config.vae_decoder)
    assert sum(stage.num_gpus for stage in stages) <= 1 + 1e-9, "they are to share one GPU"


def test_the_readme_tells_the_limits_that_hold() -> None:
    limits = " ".join(read("README.md").split("\n## Limits\n")[1].split())
    for name, preset in PRESETS.items():
        sides = f"`{name}`: sides of {preset.limits.minimum} to {preset.limits.maximum}"
        assert sides in limits
        assert f"default {'x'.join(map(str, preset.limits.default))}" in limits
    sessions = load_config().sessions
    assert f"| {sessions.max_pending_voice_s:.0f} s (`sessions.max_pending_voice_s`)" in limits
    assert f"{sessions.max_sessions} a Denoiser replica" in limits
    assert (
        f"| {sessions.credit_frames} (`sessions.credit_frames`); none acknowledged for {sessions.ack_timeout_s:.0f} s"
        in limits
    )
    assert f"{sessions.max_prompt_bytes:,} bytes of UTF-8" in limits
    times = (sessions.max_duration_s / 3600, sessions.idle_timeout_s / 60, sessions.detached_timeout_s)
    assert "{:.0f} h; {:.0f} min without voice or ack; {:.0f} s without a stream".format(*times) in limits


# ---- the example -------------------------------------------------------------------------------------------------------------


def test_the_python_example_runs_as_it_stands(service: Service, tmp_path: Path) -> None:
    (example,) = fences("README.md", "python")
    program = example.replace("127.0.0.1:9000", service.address)
    assert program != example
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    events = [line.split()[0].removeprefix("EVENT_TYPE_") for line in run.stdout.splitlines()]
    spoken = ["READY", "SPEECH_STARTED", "SPEECH_ENDED", "CLOSED"]
    assert [event for event in events if event in spoken] == spoken
    with av.open(str(tmp_path / "out" / "hello.mp4")) as video, av.open(str(ROOT / "examples" / "voice.wav")) as voice:
        assert {stream.type for stream in video.streams} == {"video", "audio"}
        assert video.duration is not None
        assert voice.duration is not None
        extra_s = (video.duration - voice.duration) / 1e6
        assert 0 <= extra_s < 1.7, "all of the voice, and at most a block more"
