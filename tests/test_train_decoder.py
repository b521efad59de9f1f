"""The decoder's own training: what the transformer makes of clips, and sharp pictures of that."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clip_fixtures import BLOCKS, CLIPS, SIDE, run_with_clips
from liveact_models.checkpoint import open_checkpoint
from liveact_models.config import TinyVaeConfig
from liveact_models.timeline import block_frames
from liveact_models.training import TrainingError
from liveact_models.training.decoder import DecoderOptions, DecoderStage
from liveact_models.training.latents import clip_seed
from liveact_models.training.picture_bank import PictureBank, Window, to_video
from liveact_models.training.prediction_bank import PredictionBank, on_the_grid, save_predictions
from liveact_models.training.predictions import PredictionsOptions
from liveact_models.training.principal import begin_with, components
from liveact_models.training.products import open_products
from liveact_models.training.recipe import Recipe, RecipeError, shipped_recipe
from liveact_models.training.run_folder import RunFolder
from liveact_models.training.stages import open_stage
from liveact_models.training.workers import Workers
from liveact_models.training.world import film
from liveact_models.vae import TinyVae
from liveact_models.world.clip import make_clip
from training_stages import trained, unbroken_and_broken

CPU = torch.device("cpu")
SIZE, FRAMES, PEOPLE = 48, 9, 6
CROPS = {"side": 32, "frames": 5, "jitter": 4}
OPTIONS = {"crops": CROPS, "begin": 2, "judged": 2, "channels": (8, 16)}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def recipe(stage: str, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "preset": "test", "model": "tiny", "stage": stage, "steps": 6, "batch": 4, "lr": 3e-3, "ema": 0.5, "seed": 5,
        "log_every": 1, "checkpoint_minutes": 1000, "options": OPTIONS if stage == "decoder" else {},
    }  # fmt: skip
    return Recipe.model_validate(values | changes)


@pytest.fixture
def make_run(tmp_path: Path):
    """Run folders with a codec of the principal components as VAE, and six clips through it as predictions."""
    pictures, boxes = zip(*(film((1, person), FRAMES, SIZE) for person in range(PEOPLE)), strict=True)
    video = to_video(torch.from_numpy(np.stack(pictures)))
    torch.manual_seed(0)
    vae = TinyVae(TinyVaeConfig())
    begin_with(vae, components([video[:, :, 1:]]))
    with torch.no_grad():
        latents = vae.encode_clips(video)

    def make(name: str) -> RunFolder:
        run = RunFolder(tmp_path / name)
        run.save_product("vae", vae.state_dict())
        softer = 0.8 * latents
        save_predictions(run.predictions, 0, latents[:4], softer[:4], np.stack(pictures[:4]), np.stack(boxes[:4]))
        save_predictions(run.predictions, 1, latents[4:], softer[4:], np.stack(pictures[4:]), np.stack(boxes[4:]))
        return run

    return make


@pytest.mark.slow
def test_predictions_stand_beside_the_pictures_of_their_clips(tmp_path):
    run = run_with_clips(tmp_path / "run")
    run.claim(recipe("latents", seed=3, options={"size": 8 * SIDE}))
    run.save_product("transformer", open_checkpoint("untrained", "tiny").load_transformer().state_dict())
    what = recipe("predictions", steps=2, batch=2, options={"processes": 1})
    status, told = trained(what, run)
    assert status.state == "finished"
    bank = PredictionBank(run.predictions)
    assert len(bank) == 4
    assert len(bank) < CLIPS
    error = (bank.predicted[2:].float() - bank.true[2:].float()).square().mean().item()
    losses = {s.step: s.metrics["loss"] for s in told if s.metrics}
    assert losses[2] == pytest.approx(error, rel=1e-2)
    assert error > 0.1
    clip = make_clip(clip_seed(recipe("latents", seed=3), 2), block_frames(BLOCKS - 1).stop, "train", 8 * SIDE)
    window = Window(2, 0, 0, 8 * SIDE, 0, 85)
    shown = ((bank.shots([window]).video[0] + 1) * 127.5).round().permute(1, 2, 3, 0).numpy()
    assert np.array_equal(shown, clip.frames())
    kept = (run.predictions / "latents-00000.safetensors").stat().st_mtime_ns
    (run.predictions / "latents-00001.safetensors").unlink()
    run.forget("predictions")
    trained(what, run)
    assert torch.equal(PredictionBank(run.predictions).predicted, bank.predicted)
    assert (run.predictions / "latents-00000.safetensors").stat().st_mtime_ns == kept


def test_more_predictions_than_clips_are_refused(tmp_path):
    run = run_with_clips(tmp_path / "run")
    with pytest.raises(RecipeError, match="4 steps of 2 clips; the bank has 6"):
        open_stage(recipe("predictions", steps=4, batch=2), run, CPU)


def test_latents_and_pictures_of_a_window_are_of_the_same_place_and_time(make_run):
    bank = PredictionBank(make_run("run").predictions)
    vae = open_products(make_run("other"), recipe("decoder")).load_vae()
    windows = [Window(1, 8, 16, 32, 4, 5), Window(5, 16, 8, 32, 0, 9)]
    for window in windows:
        video = vae.decode_clips(bank.latents([window], torch.tensor([False])))
        truth = bank.shots([window]).video
        elsewhere = bank.shots([dataclasses.replace(window, x=0)]).video
        near, far = ((video - other)[:, :, 1:].square().mean().item() for other in (truth, elsewhere))
        assert near < 0.2 * far
    same = bank.latents(windows[:1], torch.tensor([False]))
    torch.testing.assert_close(bank.latents(windows[:1], torch.tensor([True])), 0.8 * same, rtol=1e-2, atol=1e-2)


def test_windows_are_moved_to_the_latents_grid_and_stay_inside():
    assert on_the_grid(Window(3, 13, 3, 32, 6, 5), 48) == Window(3, 16, 0, 32, 4, 5)
    assert on_the_grid(Window(3, 15, 16, 32, 3, 5), 48) == Window(3, 16, 16, 32, 0, 5)


def test_a_step_draws_the_same_with_any_number_of_workers_and_mixes_true_with_made(make_run):
    stage = DecoderStage(recipe("decoder", batch=8), make_run("run"), CPU)
    for step in range(6):
        latents, shots = stage._draw(step, Workers())
        parts = [stage._draw(step, Workers(rank, 2)) for rank in range(2)]
        if shots.video.shape[-1] == 32:
            assert torch.equal(torch.cat([part[0] for part in parts]), latents)
            assert torch.equal(torch.cat([part[1].video for part in parts]), shots.video)
    predicted = []
    for step in range(20):
        stage.options = dataclasses.replace(stage.options, predicted=0.0)
        clean, _ = stage._draw(step, Workers())
        stage.options = dataclasses.replace(stage.options, predicted=0.7)
        mixed, _ = stage._draw(step, Workers())
        predicted += [not torch.equal(a, b) for a, b in zip(clean, mixed, strict=True)]
    assert 0.5 < np.mean(predicted) < 0.9


def test_the_decoder_changes_and_the_latents_stay(make_run):
    run = make_run("run")
    before = run.load_product("vae")
    _, told = trained(recipe("decoder", steps=4), run)
    after = run.load_product("vae")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert all(name.startswith("decoder.") for name in changed)
    assert len(changed) > 10
    heard = {status.step: "adversarial" in status.metrics for status in told if status.metrics}
    assert heard == {1: False, 2: False, 3: True, 4: True}


def test_the_verdict_weighs_what_it_was_given_however_loud_it_is(make_run):
    stage = DecoderStage(recipe("decoder", options=OPTIONS | {"features": 0.0}), make_run("run"), CPU)
    pixels = torch.randn(1, 6, 16, 16, requires_grad=True)
    pull = torch.randn(1, 6, 16, 16)
    for loudness in (1.0, 1e3):
        told = {"adversarial": loudness * pixels.square().sum(), "features": 0.0 * pixels.sum()}
        weighed = stage._weighed(told, pixels, pull)
        assert weighed.norm().item() == pytest.approx(0.8 * pull.norm().item(), rel=1e-4)


def test_stopped_and_resumed_is_unbroken(make_run):
    weights = unbroken_and_broken(recipe("decoder", steps=4), make_run, "vae")
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_pictures_show_whole_clips_as_the_transformer_made_them(make_run):
    stage = DecoderStage(recipe("decoder"), make_run("run"), CPU)
    assert stage.pictures(0)["predictions"].shape == (4 * 2 * SIZE, 3 * SIZE, 3)


def test_predictions_that_are_missing_or_of_other_clips_are_named(make_run, tmp_path):
    with pytest.raises(TrainingError, match="liveact train predictions"):
        PredictionBank(tmp_path)
    run = make_run("run")
    (run.predictions / "latents-00001.safetensors").unlink()
    with pytest.raises(TrainingError, match="4 clips have latents and 6 pictures"):
        PredictionBank(run.predictions)
    assert len(PictureBank(run.predictions)) == PEOPLE


def test_the_shipped_recipes_are_read():
    for preset in ("smoke", "tiny"):
        shipped_recipe(preset, "decoder").read_options(DecoderOptions)
        shipped_recipe(preset, "predictions").read_options(PredictionsOptions)
