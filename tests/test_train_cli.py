"""`liveact train`: stages in order, interrupted and gone on with, and every mistake told with its exit code."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner, Result

from liveact_models.training import MissingExtra, recipe, stages
from liveact_models.training.recipe import Recipe
from liveact_models.training.run_folder import RunFolder, Status
from liveact_services.cli.main import app
from liveact_services.training import LocalTrainer, RayTrainer, TrainingUnavailable, cpu_threads

TESTS = Path(__file__).parent
Start = Callable[..., subprocess.Popen[str]]
SHARPEN = {
    "preset": "test", "stage": "training_stages:Sharpen", "steps": 6, "batch": 4, "lr": 2e-3, "ema": 0.9,
    "log_every": 1, "checkpoint_minutes": 1e-6, "options": {"dropout": 0.0, "muon": False},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def three_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package whose preset `tiny` has three small stages."""
    small = {"world": "training_stages:Count", "stage1": "training_stages:Sharpen", "stage2": "training_stages:Sharpen"}
    kept = dict(stages.STAGES)
    stages.STAGES.clear()
    stages.STAGES.update(small)
    for name in small:
        folder = tmp_path / "recipes/tiny"
        folder.mkdir(parents=True, exist_ok=True)
        options = {} if name == "world" else SHARPEN["options"]
        fields = {**SHARPEN, "preset": "tiny", "stage": name, "options": options, "minutes": 3.0 * (name == "stage2")}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(fields))
    monkeypatch.setattr(recipe, "RECIPES", tmp_path / "recipes")
    yield
    stages.STAGES.clear()
    stages.STAGES.update(kept)


def run(*words: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, ["train", *map(str, words)])


@pytest.fixture
def start() -> Iterator[Start]:
    """`liveact train ... --local` as a process, which does not outlive the test."""
    code = "import sys; from liveact_services.cli.main import app; app(sys.argv[1:])"
    started = []

    def start_one(*words: str | Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, "train", *map(str, words), "--local", "--threads", "1"]
        started.append(subprocess.Popen(command, cwd=TESTS, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.wait()


def write_recipe(folder: Path, **changes: Any) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**SHARPEN, **changes}))
    return path


def said(result: Result) -> str:
    return " ".join(result.output.replace("│", " ").split())


# ---- training ----------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("three_stages")
def test_all_says_what_it_will_do_and_trains_in_order(tmp_path: Path) -> None:
    result = run("all", "--local", "--threads", 1, "--run", tmp_path / "run", "--json")
    assert result.exit_code == 0, result.output
    before = result.stderr.split("world: finished")[0]
    for word in ("world", "stage1", "stage2", "not measured yet", "about 3 min 0 s on two CPU cores"):
        assert word in before
    ends = [line.split(":")[0] for line in result.stderr.splitlines() if ": finished" in line]
    assert ends == ["world", "stage1", "stage2"]
    answer = json.loads(result.stdout.splitlines()[-1])
    assert [stage["state"] for stage in answer["stages"].values()] == ["finished"] * 3
    assert answer["stages"]["stage1"]["products"] == ["network.safetensors"]
    assert (tmp_path / "run/world/all.txt").exists()


@pytest.mark.usefixtures("three_stages")
def test_all_passes_over_what_is_finished(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run("world", "--local", "--threads", 1, "--run", folder).exit_code == 0
    (folder / "world/0.txt").unlink()
    result = run("all", "--local", "--threads", 1, "--run", folder)
    assert result.exit_code == 0, result.output
    assert "world: finished" not in result.stderr
    assert not (folder / "world/0.txt").exists()
    assert RunFolder(folder).status("stage2").state == "finished"
    again = run("all", "--local", "--run", folder)
    assert again.exit_code == 0
    assert ": finished" not in again.stderr


@pytest.mark.usefixtures("three_stages")
def test_fresh_starts_a_stage_over(tmp_path: Path) -> None:
    words = ("world", "--local", "--threads", 1, "--run", tmp_path / "run")
    assert run(*words).exit_code == 0
    (tmp_path / "run/world/0.txt").unlink()
    assert run(*words, "--fresh").exit_code == 0
    assert (tmp_path / "run/world/0.txt").exists()


@pytest.mark.slow
def test_a_signal_saves_and_says_how_to_go_on(tmp_path: Path, start: Start) -> None:
    path = write_recipe(tmp_path, steps=100_000, checkpoint_minutes=60)
    runs = {number: RunFolder(tmp_path / number.name) for number in (signal.SIGINT, signal.SIGTERM)}
    processes = {number: start("stage1", "--recipe", path, "--run", folder.path) for number, folder in runs.items()}
    for number, process in processes.items():
        _wait_for_step(runs[number], process)
        process.send_signal(number)
        stderr = process.communicate(timeout=90)[1]
        assert process.returncode == 130, stderr
        now = runs[number].status("Sharpen")
        assert (now.state, now.checkpoint_step) == ("interrupted", now.step)
        go_on = f"go on with: liveact train stage1 --recipe {path} --run {runs[number].path}"
        assert stderr.splitlines()[-1] == f"stopped after step {now.step} of Sharpen; {go_on}"


def _wait_for_step(folder: RunFolder, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while (now := folder.status("Sharpen")) is None or now.step < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_stage_of_the_smoke_run_ends_as_the_unbroken_one(tmp_path: Path, start: Start) -> None:
    whole, broken = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "broken")
    often = recipe.shipped_recipe("smoke", "autoencoder").model_copy(update={"checkpoint_minutes": 0.1})
    file = tmp_path / "often.yaml"
    file.write_text(yaml.safe_dump(often.model_dump(mode="json")))
    for words in (("world", "--preset", "smoke"), ("autoencoder", "--recipe", file)):
        process = start(*words, "--run", whole.path)
        stderr = process.communicate()[1]
        assert process.returncode == 0, stderr
    shutil.copytree(whole.world, broken.world)
    process = start("autoencoder", "--recipe", file, "--run", broken.path)
    while (now := broken.status("autoencoder")) is None or now.checkpoint_step is None:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert broken.status("autoencoder").state == "running", "it was killed too late to be a test"
    process = start("autoencoder", "--recipe", file, "--run", broken.path)
    stderr = process.communicate()[1]
    assert process.returncode == 0, stderr
    ends = [folder.status("autoencoder") for folder in (whole, broken)]
    assert [end.state for end in ends] == ["finished", "finished"]
    assert ends[0].metrics == ends[1].metrics
    first, second = (folder.load_product("vae") for folder in (whole, broken))
    assert all(torch.equal(first[name], second[name]) for name in first)


# ---- status ------------------------------------------------------------------------------------------------------------------


def test_status_shows_every_stage(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.claim(Recipe.model_validate({**SHARPEN, "stage": "stage1"}))
    folder.write_status(
        Status("stage1", "running", 30, 60, {"loss": 0.1234}, 2.5, 12.0, 25, time.time() - 61, ("x.safetensors",))
    )
    result = run("status", "--run", tmp_path)
    assert result.exit_code == 0, result.output
    rows = {line.split()[1]: line for line in result.stdout.splitlines() if line.startswith("│")}
    assert [stage for stage in stages.STAGES if stage not in rows] == []
    assert "not begun" in rows["world"]
    for word in ("killed", "30/60", "0.1234", "2.5", "step 25, 1 min", "x.safetensors"):
        assert word in rows["stage1"]
    with folder.locked("stage1"):
        answer = json.loads(run("status", "--run", tmp_path, "--json").stdout.splitlines()[-1])
    assert answer["stages"]["stage1"]["state"] == "running"
    assert answer["stages"]["world"] is None


# ---- mistakes ----------------------------------------------------------------------------------------------------------------


def test_an_unknown_stage_is_told_with_those_there_are() -> None:
    result = run("stage9")
    assert result.exit_code == 2
    assert "'stage9' is unknown; accepted are all, status, world, encoders" in said(result)


@pytest.mark.parametrize(
    ("words", "changes", "expected"),
    [
        (("stage1",), {"lrr": 1}, "unknown field lrr; accepted are preset, stage, model"),
        (("stage1",), {"options": {"wide": 3}}, "unknown field options.wide; accepted are width, dropout"),
        (("stage1",), {"stage": "stage2"}, "is a recipe of stage2, not of stage1"),
        (("stage1",), {"stage": "training_stages:Nothing"}, "module training_stages has no Nothing"),
        (("stage1", "--preset", "huge"), None, "preset 'huge' is unknown; accepted are smoke, tiny"),
        (("status",), None, "is no run folder: name one with --run"),
    ],
)
def test_a_wrong_recipe_is_bad_input(
    tmp_path: Path, words: tuple[str, ...], changes: dict[str, Any] | None, expected: str
) -> None:
    recipe_words = ("--recipe", write_recipe(tmp_path, **changes)) if changes else ()
    local = () if words == ("status",) else ("--local", "--threads", 1)
    result = run(*words, *recipe_words, *local, "--run", tmp_path / "run")
    assert result.exit_code == 3, result.output
    assert expected in said(result)


def test_a_run_folder_of_another_recipe_or_preset_is_bad_input(tmp_path: Path) -> None:
    words = ("stage1", "--local", "--threads", 1, "--run", tmp_path / "run", "--recipe")
    assert run(*words, write_recipe(tmp_path)).exit_code == 0
    other = run(*words, write_recipe(tmp_path, lr=1.0))
    assert other.exit_code == 3
    assert "Sharpen was begun with lr 0.002, this recipe has 1.0" in said(other)
    shipped = run("all", "--local", "--run", tmp_path / "run")
    assert shipped.exit_code == 3
    assert "was begun with preset 'test', the recipe of world has 'tiny'" in said(shipped)


def test_a_loss_that_is_not_finite_is_a_failed_check(tmp_path: Path) -> None:
    options = {**SHARPEN["options"], "diverge_at": 2}
    result = run("stage1", "--local", "--recipe", write_recipe(tmp_path, options=options), "--run", tmp_path / "run")
    assert result.exit_code == 1
    assert "liveact: Sharpen: the gradient is nan at step 2; the newest checkpoint is of step 2" in said(result)


def test_a_checkpoint_that_does_not_fit_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/Sharpen").touch()
    result = run("stage1", "--local", "--recipe", write_recipe(tmp_path), "--run", tmp_path / "run")
    assert result.exit_code == 4
    assert "the checkpoint of step 1 could not be written" in said(result)


def test_a_missing_extra_is_unavailable_and_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*_: Any) -> None:
        raise MissingExtra("skia")

    monkeypatch.setattr(LocalTrainer, "train", without)
    result = run("stage1", "--local", "--recipe", write_recipe(tmp_path), "--run", tmp_path / "run")
    assert result.exit_code == 4
    assert "pip install 'liveact-serve[train]'" in said(result)


def test_cores_are_shared_out() -> None:
    cores = len(os.sched_getaffinity(0))
    assert cpu_threads(1) == cores
    assert cpu_threads(10 * cores) == 1


# ---- Ray ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ray_trains_as_one_worker_does_stops_on_request_and_outlives_a_worker(tmp_path: Path) -> None:
    one_recipe = Recipe.model_validate({**SHARPEN, "steps": 40})
    dying = Recipe.model_validate({**SHARPEN, "steps": 40, "options": {**SHARPEN["options"], "die_at": 20}})
    wrong = Recipe.model_validate({**SHARPEN, "options": {"wide": 1}})
    one, two = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two")
    with LocalTrainer(1) as trainer:
        alone = trainer.train(one_recipe, one, lambda status: None, lambda: False)
    lines: list[str] = []
    with RayTrainer(2, 1, lines.append) as trainer:
        temp = trainer._temp
        stopped = trainer.train(dying, two, lambda status: None, lambda: (two.status("Sharpen") or alone).step < 40)
        assert stopped.state == "interrupted"
        assert stopped.step < 40
        together = trainer.train(dying, two, lambda status: None, lambda: False)
        with pytest.raises(recipe.RecipeError, match=r"unknown field options\.wide"):
            trainer.train(wrong, RunFolder(tmp_path / "wrong"), lambda status: None, lambda: False)
    assert (together.state, together.workers) == ("finished", 2)
    assert any("a worker died" in line for line in lines)
    assert together.loss == pytest.approx(alone.loss, abs=1e-5)
    theirs = two.load_product("network")
    for name, tensor in one.load_product("network").items():
        torch.testing.assert_close(theirs[name], tensor, atol=1e-5, rtol=0)
    assert not temp.exists()


def test_more_workers_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(TrainingUnavailable, match="2 workers need a GPU each; here are 1"):
        RayTrainer(2)
