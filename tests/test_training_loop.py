"""Training goes on as if it had never been stopped, whatever stopped it, and says what is wrong."""

from __future__ import annotations

import dataclasses
import json
import math
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from liveact_models.training import TrainingError
from liveact_models.training.checkpoints import Checkpoints, CheckpointWriteError
from liveact_models.training.draws import generator, rng
from liveact_models.training.ema import Ema
from liveact_models.training.loop import Diverged, train
from liveact_models.training.recipe import Recipe, RecipeError, Schedule, load_recipe, recipe_presets, shipped_recipe
from liveact_models.training.run_folder import RunError, RunFolder, Status
from liveact_models.training.stages import STAGES, open_stage, stage_class
from liveact_models.training.workers import Workers
from training_stages import Sharpen, SharpenOptions

CPU = torch.device("cpu")
SHARPEN = {
    "preset": "test", "stage": "training_stages:Sharpen", "steps": 12, "batch": 4, "lr": 2e-3, "weight_decay": 0.01,
    "schedule": {"warmup": 2, "hold": 0.5}, "ema": 0.9, "seed": 3, "log_every": 1, "checkpoint_minutes": 1e-6,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def sharpen(**changes: Any) -> Recipe:
    return Recipe.model_validate({**SHARPEN, **changes})


def trained(recipe: Recipe, folder: Path, **how: Any) -> tuple[Status, list[Status]]:
    run, told = RunFolder(folder), []
    return train(open_stage(recipe, run, CPU), recipe, run, report=told.append, **how), told


def losses(told: list[Status]) -> dict[int, float]:
    return {status.step: status.loss for status in told if status.loss is not None}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# ---- resumed is unbroken ---------------------------------------------------------------------------------------------------


def test_killed_and_resumed_is_the_unbroken_run_to_the_bit(tmp_path: Path) -> None:
    recipe = {**SHARPEN, "steps": 60}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    command = [sys.executable, str(Path(__file__).parent / "training_stages.py"), str(file), str(tmp_path / "broken")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if int(line.split()[0]) >= 7:
            break
    process.kill()
    rest = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL
    assert "60 " not in rest, "it was killed too late to be a test"

    resumed, told = trained(Recipe.model_validate(recipe), tmp_path / "broken")
    unbroken, reference = trained(Recipe.model_validate(recipe), tmp_path / "unbroken")
    assert told[0].step >= 6
    assert losses(told).items() <= losses(reference).items()
    assert resumed.loss == unbroken.loss
    assert same(
        RunFolder(tmp_path / "broken").load_product("network"), RunFolder(tmp_path / "unbroken").load_product("network")
    )
    ends = [RunFolder(tmp_path / name).checkpoints("Sharpen").newest()[1] for name in ("broken", "unbroken")]
    for part in ("optimizers", "ema"):
        assert str(ends[0][part]) == str(ends[1][part])


def test_stopped_on_request_writes_a_checkpoint_and_goes_on_from_it(tmp_path: Path) -> None:
    recipe = sharpen(checkpoint_minutes=60, log_every=5)
    asked = iter([False] * 6 + [True] * 20)
    interrupted, _ = trained(recipe, tmp_path / "run", stop=lambda: next(asked))
    assert (interrupted.state, interrupted.step, interrupted.checkpoint_step) == ("interrupted", 7, 7)
    assert not RunFolder(tmp_path / "run").product("network").exists()
    finished, told = trained(recipe, tmp_path / "run")
    assert (finished.state, finished.step, finished.products) == ("finished", 12, ("network.safetensors",))
    assert told[0].step == 7
    unbroken, _ = trained(recipe, tmp_path / "unbroken")
    assert finished.loss == unbroken.loss


def test_the_product_is_the_mean_of_the_weights(tmp_path: Path) -> None:
    trained(sharpen(), tmp_path)
    run = RunFolder(tmp_path)
    state = run.checkpoints("Sharpen").newest()[1]
    product = run.load_product("network")
    assert same(product, state["ema"]["means"]["network"])
    assert not same(product, state["modules"]["network"])


def test_ema_follows_a_constant_and_gives_the_weights_back() -> None:
    layer = torch.nn.Linear(3, 3)
    with torch.no_grad():
        layer.weight.fill_(0.0)
        ema = Ema({"layer": layer}, 0.5)
        layer.weight.fill_(1.0)
    ema.update()  # decay min(0.5, 1 / 10)
    assert torch.allclose(ema.module_state("layer")["weight"], torch.tensor(0.9))
    with ema.applied():
        assert torch.allclose(layer.weight, torch.tensor(0.9))
    assert torch.equal(layer.weight, torch.ones(3, 3))


# ---- checkpoints -----------------------------------------------------------------------------------------------------------


def test_two_checkpoints_are_kept_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        checkpoints.save(step, {"value": torch.tensor(step)})
    assert checkpoints.steps() == [3, 2]
    newest = next(tmp_path.glob("00000003-*.pt"))
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    step, state = checkpoints.newest()
    assert (step, int(state["value"])) == (2, 2)


def test_a_checkpoint_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"value": torch.zeros(10)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(CheckpointWriteError, match=r"step 2 could not be written \(.+\); that of step 1 stands"):
            checkpoints.save(2, {"value": torch.zeros(10**5)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name[:8] for path in tmp_path.iterdir()] == ["00000001"]


def test_a_checkpoint_that_cannot_be_written_ends_training_with_the_reason(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.path.joinpath("checkpoints").mkdir(parents=True)
    run.path.joinpath("checkpoints/Sharpen").write_text("in the way")
    with pytest.raises(CheckpointWriteError, match=r"step 1 could not be written .*there is none yet"):
        trained(sharpen(), tmp_path)
    assert run.status("Sharpen").state == "failed"


# ---- draws, schedule, divergence -------------------------------------------------------------------------------------------


def test_draws_depend_on_the_key_alone() -> None:
    assert rng(1, 2, 3).integers(1 << 30) == rng(1, 2, 3).integers(1 << 30)
    numbers = {int(torch.randint(1 << 40, (), generator=generator(*key))) for key in ((1, 2), (2, 1), (1, 2, 0), (12,))}
    assert len(numbers) == 4


def test_the_schedule_rises_holds_and_falls() -> None:
    linear = Schedule(warmup=4, hold=0.5, floor=0.1)
    assert [linear.factor(step, 20) for step in (0, 3, 4, 10)] == [0.25, 1.0, 1.0, 1.0]
    assert linear.factor(15, 20) == pytest.approx(0.55)
    assert linear.factor(20, 20) == pytest.approx(0.1)
    assert Schedule(hold=0.0, shape="cosine").factor(5, 20) == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 4))
    assert Schedule(shape="constant").factor(19, 20) == 1.0


def test_a_cycle_of_the_schedule_is_like_the_one_before() -> None:
    once, thrice = Schedule(warmup=4, hold=0.5), Schedule(warmup=4, hold=0.5, cycles=3)
    assert [thrice.factor(step, 60) for step in range(60)] == [once.factor(step, 20) for step in range(20)] * 3
    assert [thrice.cycle(step, 50) for step in (0, 16, 17, 49)] == [(0, 0, 17), (0, 16, 17), (1, 0, 17), (2, 15, 16)]


def test_the_schedule_is_what_the_optimisers_step_with(tmp_path: Path) -> None:
    seen = {}
    stage = open_stage(sharpen(), RunFolder(tmp_path), CPU)
    step_once = stage.train_step

    def watched(step: int, workers: Workers) -> dict[str, float]:
        seen[step] = [group["lr"] for optimizer in stage.optimizers.values() for group in optimizer.param_groups]
        return step_once(step, workers)

    stage.train_step = watched  # type: ignore[method-assign]
    train(stage, sharpen(), RunFolder(tmp_path))
    assert set(seen[0]) == {1e-3}
    assert set(seen[2]) == {2e-3}
    assert seen[11] == pytest.approx([2e-3 / 6] * len(seen[11]))


def test_a_loss_that_is_not_finite_ends_training_before_it_is_saved(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"Sharpen: the gradient is nan at step 5; the newest checkpoint is of step 5"):
        trained(sharpen(options={"diverge_at": 5}), tmp_path)
    assert RunFolder(tmp_path).checkpoints("Sharpen").steps() == [5, 4]


# ---- recipes and run folders -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lrr: 1", "unknown field lrr; accepted are preset, stage, model, steps"),
        ("schedule: {warm: 1}", "unknown field schedule.warm; accepted are warmup, hold, shape, floor, cycles"),
        ("schedule: {shape: round}", "schedule.shape is 'round'"),
        ("steps: 0", "steps is 0: input should be greater than or equal to 1"),
        ("steps: many", "steps is 'many'"),
        ("stage: stage9", "stage 'stage9' is unknown; accepted are world, encoders"),
    ],
)
def test_a_recipe_that_is_not_accepted_is_told_by_file_and_field(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"preset": "test", "stage": "world", "steps": 3, **yaml.safe_load(text)}))
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    assert str(caught.value).startswith(f"{file}: {said}")


@pytest.mark.parametrize("text", ["", "- a list", "a: [", "steps: 3"])
def test_a_file_that_is_no_recipe_is_told(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=r"mine\.yaml: "):
        load_recipe(file)


def test_options_of_a_stage_are_checked_and_typed() -> None:
    assert sharpen(options={"width": 8, "dropout": "1e-3"}).read_options(SharpenOptions) == SharpenOptions(8, 1e-3)
    with pytest.raises(RecipeError, match=r"unknown field options\.wide; accepted are width, dropout"):
        sharpen(options={"wide": 8}).read_options(SharpenOptions)
    with pytest.raises(RecipeError, match=r"options\.width is 'eight'"):
        sharpen(options={"width": "eight"}).read_options(SharpenOptions)


def test_every_preset_has_a_recipe_of_every_stage() -> None:
    assert recipe_presets() == ["smoke", "tiny"]
    for preset in recipe_presets():
        for stage in STAGES:
            recipe = shipped_recipe(preset, stage)
            assert (recipe.preset, recipe.stage) == (preset, stage)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr": 1e-3}, "Sharpen was begun with lr 0.002, this recipe has 0.001: .*--fresh"),
        ({"preset": "other"}, "begun with preset 'test', the recipe of Sharpen has 'other'.*--run"),
        ({"model": "soulx-liveact-18b"}, "begun with model 'tiny'"),
    ],
)
def test_a_folder_of_another_recipe_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    run = RunFolder(tmp_path)
    run.claim(sharpen())
    run.claim(sharpen(log_every=7, checkpoint_minutes=9, compile=True))
    with pytest.raises(RunError, match=said):
        run.claim(sharpen(**changes))


def test_a_stage_starts_over_when_asked(tmp_path: Path) -> None:
    trained(sharpen(steps=2), tmp_path)
    run = RunFolder(tmp_path)
    run.forget("Sharpen")
    assert run.status("Sharpen") is None
    _, told = trained(sharpen(steps=3), tmp_path)
    assert told[0].step == 0


def test_two_processes_do_not_train_one_stage(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with (
        run.locked("Sharpen"),
        pytest.raises(RunError, match="Sharpen is being trained by another process"),
        run.locked("Sharpen", patience_s=0),
    ):
        pass


def test_a_missing_or_damaged_product_is_told(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(RunError, match=r"vae\.safetensors is missing: .*liveact train status"):
        run.load_product("vae")
    run.save_product("vae", {"weight": torch.ones(3)})
    assert torch.equal(run.load_product("vae")["weight"], torch.ones(3))
    run.product("vae").write_bytes(b"123")
    with pytest.raises(RunError, match=r"vae\.safetensors is damaged"):
        run.load_product("vae")


def test_a_status_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    status = Status(
        "stage1", "running", 5, 10, {"loss": 0.5}, 2.0, 3.0, 4, 5.0, ("transformer.safetensors",), 2, "cpu", 6.0
    )
    run.write_status(status)
    assert run.status("stage1") == status
    assert status.seconds_left == 2.5
    (tmp_path / "status/stage1.json").write_text(json.dumps({**dataclasses.asdict(status), "unheard": 1}))
    with pytest.raises(RunError, match=r"stage1\.json is damaged"):
        run.status("stage1")


def test_an_unknown_stage_is_told() -> None:
    with pytest.raises(TrainingError, match="stage 'stage9' is unknown; accepted are world"):
        stage_class("stage9")
    with pytest.raises(TrainingError, match="no module no_such_module"):
        stage_class("no_such_module:Stage")
    with pytest.raises(TrainingError, match="has no Nothing"):
        stage_class("training_stages:Nothing")
    assert stage_class("training_stages:Sharpen") is Sharpen


# ---- workers -----------------------------------------------------------------------------------------------------------------


def test_samples_are_split_evenly_or_not_at_all() -> None:
    assert [list(Workers(rank, 2).samples(4)) for rank in (0, 1)] == [[0, 1], [2, 3]]
    with pytest.raises(TrainingError, match="batch 5 does not split into 2"):
        Workers(0, 2).samples(5)


# Muon's bfloat16 turns a last bit of the gradient into 1e-4 of a step, AdamW does not.
ALIKE = {"options": {"dropout": 0.0, "muon": False}}


def _worker(rank: int, folder: str) -> None:
    """What each of two workers does: every way to communicate, then training."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        workers = Workers.current()
        assert (workers.rank, workers.size) == (rank, 2)
        used, partly, unused = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
        used.grad = torch.full((2,), float(rank))
        partly.grad = torch.full((2,), 4.0) if rank else None
        workers.average_gradients([used, partly, unused])
        assert used.grad.tolist() == [0.5, 0.5]
        assert partly.grad.tolist() == [2.0, 2.0]
        assert unused.grad is None
        assert workers.mean({"loss": float(rank)}) == {"loss": 0.5}
        assert workers.highest(rank * 3) == 3
        layer = torch.nn.Linear(2, 2)
        torch.nn.init.constant_(layer.weight, rank + 1)
        workers.share({"layer": layer})
        assert layer.weight.tolist() == [[1.0, 1.0], [1.0, 1.0]]
        recipe, run = sharpen(**ALIKE), RunFolder(f"{folder}/two")
        assert train(open_stage(recipe, run, CPU), recipe, run, workers).workers == 2
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_of_half_a_batch_are_one_of_the_whole(tmp_path: Path) -> None:
    code = (
        f"import torch; torch.set_num_threads(1); from test_training_loop import _worker; _worker(1, {str(tmp_path)!r})"
    )
    other = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent)
    try:
        _worker(0, str(tmp_path))
        assert other.wait(30) == 0
    finally:
        other.kill()
    one, _ = trained(sharpen(**ALIKE), tmp_path / "one")
    assert RunFolder(tmp_path / "two").status("Sharpen").loss == pytest.approx(one.loss, abs=1e-5)
    mine, theirs = (RunFolder(tmp_path / name).load_product("network") for name in ("one", "two"))
    for name, tensor in mine.items():
        torch.testing.assert_close(theirs[name], tensor, atol=1e-5, rtol=0)


def test_tensorboard_has_one_point_a_step_after_a_resume(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    asked = iter([False] * 6 + [True] * 20)
    trained(sharpen(), tmp_path, stop=lambda: next(asked))
    time.sleep(1.1)  # the files are named by the second
    trained(sharpen(), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard/Sharpen")).Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 13))
