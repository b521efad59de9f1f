"""The autoencoder's training: what it looks at, what it makes of it, and that no interruption changes that."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from liveact_models.config import PRESETS, TinyVaeConfig, VaeConfig
from liveact_models.training import TrainingError
from liveact_models.training.autoencoder import AutoencoderOptions, AutoencoderStage, watched
from liveact_models.training.crops import Crops, draw_shots
from liveact_models.training.picture_bank import MOUTH, PictureBank, Shots, Window, save_shard
from liveact_models.training.principal import begin_with, components
from liveact_models.training.products import open_products
from liveact_models.training.recipe import Recipe, RecipeError, shipped_recipe
from liveact_models.training.reconstruction import Losses, comparison, measures, reconstruction, reconstruction_losses
from liveact_models.training.run_folder import RunFolder
from liveact_models.training.workers import Workers
from liveact_models.training.world import film
from liveact_models.vae import TinyVae
from training_stages import trained, unbroken_and_broken

CPU = torch.device("cpu")
SIZE, FRAMES = 48, 5
CROPS = {"side": 32, "frames": FRAMES, "jitter": 4}
SMALL = TinyVaeConfig(frame_dim=16, encoder_dim=32, decoder_dim=32)


@pytest.fixture(autouse=True)
def _small_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(PRESETS, "small", dataclasses.replace(PRESETS["tiny"], name="small", vae=SMALL))
    monkeypatch.setitem(PRESETS, "full", dataclasses.replace(PRESETS["tiny"], name="full", vae=VaeConfig()))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def recipe(stage: str, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "preset": "test", "model": "small", "stage": stage, "steps": 6, "batch": 4, "lr": 3e-3, "ema": 0.5, "seed": 5,
        "log_every": 1, "checkpoint_minutes": 1000, "options": {"crops": CROPS},
    }  # fmt: skip
    return Recipe.model_validate(values | changes)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of a run: three shards of four clips."""
    folder = tmp_path_factory.mktemp("world") / "world"
    for shard in range(3):
        pictures, boxes = zip(*(film((1, 4 * shard + clip), FRAMES, SIZE) for clip in range(4)), strict=True)
        save_shard(folder, shard, np.stack(pictures), np.stack(boxes))
    return folder


@pytest.fixture
def run(world: Path, tmp_path: Path) -> RunFolder:
    return run_beside(world, tmp_path / "run")


def run_beside(world: Path, path: Path) -> RunFolder:
    path.mkdir()
    (path / "world").symlink_to(world)
    return RunFolder(path)


@pytest.mark.slow
def test_the_world_is_rendered_once_and_again_the_same(tmp_path):
    what = recipe("world", steps=2, batch=2, options={"frames": FRAMES, "size": 32, "processes": 1})
    run = RunFolder(tmp_path)
    trained(what, run)
    first = {path.name: path.read_bytes() for path in run.world.iterdir()}
    assert sorted(first) == ["boxes-00000.npy", "boxes-00001.npy", "pictures-00000.npy", "pictures-00001.npy"]
    assert first["pictures-00000.npy"] != first["pictures-00001.npy"]
    kept = (run.world / "pictures-00000.npy").stat().st_mtime_ns
    (run.world / "pictures-00001.npy").unlink()
    run.forget("world")
    trained(what, run)
    assert {path.name: path.read_bytes() for path in run.world.iterdir()} == first
    assert (run.world / "pictures-00000.npy").stat().st_mtime_ns == kept


def test_clips_show_mouths_of_every_kind_in_their_boxes(monkeypatch):
    seen: list[tuple[float, ...]] = []
    draw = film.__globals__["draw"]
    monkeypatch.setitem(film.__globals__, "draw", lambda i, s, w, h: seen.append(s.row()) or draw(i, s, 8, 8))
    for clip in range(60):
        _, boxes = film((3, clip), 21, 8)
        x0, y0, x1, y1 = boxes[:, MOUTH].T
        assert (x0 < x1).all()
        assert (y0 < y1).all()
        assert (x0.min(), y0.min()) > (0, 0.2)
        assert (x1.max(), y1.max()) < (1, 1.1)
    states = np.array(seen).reshape(60, 21, -1)
    names = [field.name for field in dataclasses.fields(film.__globals__["Motion"])]
    for name in ("open", "round", "teeth", "blink"):
        values = states[:, :, names.index(name)]
        assert (values >= 0.98).mean() > 0.02, name
        assert (values <= 0.02).mean() > 0.02, name
        assert np.abs(np.diff(values, axis=1)).max() > 0.5, name


def test_a_window_shows_the_pixels_and_the_boxes_of_its_place(world):
    bank = PictureBank(world)
    assert (len(bank), bank.frames, bank.size) == (12, FRAMES, SIZE)
    pictures = np.concatenate([np.load(world / f"pictures-{shard:05d}.npy") for shard in range(3)])
    shots = bank.shots([Window(5, 3, 7, 24, 1, 3), Window(11, 24, 0, 24, 0, 3)])
    expected = np.stack([pictures[5, 1:4, 7:31, 3:27], pictures[11, :3, :24, 24:]])
    restored = ((shots.video + 1) * 127.5).round().permute(0, 2, 3, 4, 1)
    assert np.array_equal(restored.numpy(), expected)
    x0, y0, x1, y1 = bank.box(5, 2, MOUTH)
    assert shots.boxes[0, 1, MOUTH].tolist() == pytest.approx([x0 - 3, y0 - 7, x1 - 3, y1 - 7], abs=1e-4)


def test_a_mirrored_shot_has_mirrored_boxes_and_other_colours_where_asked(world):
    shots = PictureBank(world).whole([0, 1])
    orders = torch.tensor([[2, 0, 1], [0, 1, 2]])
    changed = shots.changed(torch.tensor([True, False]), orders)
    assert torch.equal(changed.video[0], shots.video[0].flip(-1)[[2, 0, 1]])
    assert torch.equal(changed.mouth[0], shots.mouth[0].flip(-1))
    assert torch.equal(changed.video[1], shots.video[1])
    assert torch.equal(changed.boxes[1], shots.boxes[1])
    assert 0.02 < float(shots.mouth.mean()) < 0.2
    assert not (shots.mouth * shots.eyes).any()


def test_crops_look_at_mouths_at_any_pixel_and_some_steps_at_whole_pictures(world):
    bank, crops, what = PictureBank(world), Crops(**CROPS), recipe("autoencoder")
    shots = [draw_shots(bank, crops, what, step, Workers()) for step in range(80)]
    cropped = [s for s in shots if s.video.shape[-1] == 32]
    whole = [s for s in shots if s.video.shape[-1] == SIZE]
    assert len(cropped) + len(whole) == 80
    assert 4 <= len(whole) <= 24
    assert {len(s.video) for s in cropped} == {4}
    assert {len(s.video) for s in whole} == {4 * 32**2 // SIZE**2}
    seen = np.mean([float(s.mouth.mean()) for s in cropped])
    everywhere = np.mean([float(s.mouth.mean()) for s in whole])
    assert seen > 1.4 * everywhere


def test_a_step_draws_the_same_with_any_number_of_workers(world):
    bank, crops, what = PictureBank(world), Crops(**CROPS), recipe("autoencoder")
    for step in range(8):
        alone = draw_shots(bank, crops, what, step, Workers())
        parts = [draw_shots(bank, crops, what, step, Workers(rank, 2)) for rank in range(2)]
        if alone.video.shape[-1] == 32:
            assert torch.equal(torch.cat([part.video for part in parts]), alone.video)
            assert torch.equal(torch.cat([part.boxes for part in parts]), alone.boxes)
    assert not torch.equal(draw_shots(bank, crops, what, 0, Workers()).video, alone.video)


def test_measures_see_error_and_blur_where_they_are(world):
    shots = PictureBank(world).whole([2, 7])
    same = measures(shots.video, shots)
    assert same["sharpness"] == same["sharpness_mouth"] == 1
    off = (shots.video * 0.9 + 0.05).clamp(-1, 1)
    error = (off - shots.video).square()
    assert measures(off, shots)["psnr"] == pytest.approx(float(10 * torch.log10(4 / error.mean())), abs=1e-3)
    mask = shots.mouth.bool().expand_as(error)
    assert measures(off, shots)["psnr_mouth"] == pytest.approx(
        float(10 * torch.log10(4 / error[mask].mean())), abs=1e-3
    )
    soft = torch.nn.functional.avg_pool3d(shots.video, (1, 3, 3), 1, (0, 1, 1), count_include_pad=False)
    blurred = torch.where(mask, soft, shots.video)
    found = measures(blurred, shots)
    assert found["sharpness_mouth"] < 0.8 < 0.9 < found["sharpness"] < 1
    assert found["psnr_mouth"] < found["psnr"] - 3
    assert "psnr_mouth" not in measures(shots.video, dataclasses.replace(shots, boxes=shots.boxes - 1000))


def test_mouth_and_motion_weigh_more_in_the_loss(world):
    shots = PictureBank(world).whole([2])
    generator = torch.Generator().manual_seed(0)
    error = 0.2 * torch.randn(shots.video.shape, generator=generator)
    mouth = shots.video + error * shots.mouth
    elsewhere = shots.video + error * shots.mouth.roll(-SIZE // 3, dims=-2)

    def loss(video: torch.Tensor, **weights: float) -> dict[str, float]:
        return {name: float(v) for name, v in reconstruction_losses(video, shots, Losses(**weights)).items()}

    even, lips = {"mouth": 0.0, "eyes": 0.0}, {"eyes": 0.0}
    assert loss(mouth, **even)["absolute"] == pytest.approx(loss(elsewhere, **even)["absolute"], rel=0.1)
    assert loss(mouth, **lips)["absolute"] > 3 * loss(elsewhere, **lips)["absolute"]
    assert not any(loss(shots.video).values())
    # The same error in every frame is no wrong motion; frozen frames are nothing else.
    assert loss(shots.video + 0.1)["motion"] < 1e-6 < loss(shots.video + 0.1)["absolute"]
    assert loss(shots.video[:, :, :1].expand_as(shots.video))["motion"] > 1e-3


def test_training_begins_with_the_codec_of_the_principal_components(world):
    """Sixteen numbers a block carry what no other sixteen linear ones could."""
    shots = PictureBank(world).whole(range(12))
    video = shots.video[:, :, 1:]
    found = components([video])
    vae = TinyVae(TinyVaeConfig())
    begin_with(vae, found)
    latents = vae.encode_clips(shots.video)
    assert latents[:, :, 1:].mean(dim=(0, 2, 3, 4)).abs().max() < 0.2
    assert 0.7 < latents[:, :, 1:].std().item() < 1.1  # bounded: a little less than one
    blocks = (
        video.reshape(12, 3, -1, 4, SIZE // 8, 8, SIZE // 8, 8).permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(0, 3).flatten(1)
    )
    left = torch.linalg.eigvalsh(torch.cov(blocks.T, correction=0))[:-16].sum() / blocks.shape[1]
    error = (vae.decode_clips(latents)[:, :, 1:] - video).square().mean()
    assert left <= error < 1.15 * left
    torch.testing.assert_close(found.basis.T @ found.basis, torch.eye(len(found.mean)), atol=1e-4, rtol=0)


def test_training_improves_pictures_and_ships_standard_latents(run, world):
    what = recipe("autoencoder", steps=40, lr=5e-3, adamw_lr=1e-3, ema=0.8)
    begun = reconstruction(AutoencoderStage(what, run, CPU).vae, watched(what, PictureBank(world)))
    status, _ = trained(what, run)
    assert status.products == ("vae.safetensors",)
    vae = open_products(run, what).load_vae()
    found = reconstruction(vae, watched(what, PictureBank(world)))
    assert found["psnr"] > begun["psnr"] + 0.3
    latents = torch.cat([vae.encode(clip) for clip in PictureBank(world).whole(range(12)).video], dim=1)
    torch.testing.assert_close(latents.mean(dim=(1, 2, 3)), torch.zeros(16), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.std(dim=(1, 2, 3)), torch.ones(16), atol=1e-2, rtol=0)


def test_stopped_and_resumed_is_unbroken(world, tmp_path):
    weights = unbroken_and_broken(
        recipe("autoencoder", steps=4), lambda name: run_beside(world, tmp_path / name), "vae"
    )
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_pictures_show_truth_above_what_was_made(run):
    shown = AutoencoderStage(recipe("autoencoder"), run, CPU).pictures(0)["reconstruction"]
    assert shown.shape == (4 * 2 * SIZE, 3 * SIZE, 3)
    shots = PictureBank(run.world).whole([0])
    rows = comparison(torch.zeros_like(shots.video), shots.video)
    assert np.array_equal(rows[:SIZE, :SIZE], np.load(run.world / "pictures-00000.npy")[0, 0])
    assert (rows[SIZE:] == 128).all()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"options": {"crops": CROPS | {"side": 30}}},
            r"options.crops.side is 30: accepted are multiples of 8 up to 48",
        ),
        ({"options": {"crops": CROPS | {"frames": 9}}}, r"options.crops.frames is 9: accepted are 1 \+ 4n up to 5"),
        ({"options": {"crop": {}}}, "options.crop"),
        ({"model": "full"}, "has a VAE of family 'wan'"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(run, changes, told):
    with pytest.raises(RecipeError, match=told):
        AutoencoderStage(recipe("autoencoder", **changes), run, CPU)


def test_a_world_that_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(TrainingError, match="liveact train world"):
        PictureBank(tmp_path)
    save_shard(tmp_path, 0, np.zeros((1, 5, 8, 8, 3), np.uint8), np.zeros((1, 5, 2, 4), np.float32))
    (tmp_path / "boxes-00000.npy").unlink()
    with pytest.raises(TrainingError, match="a shard is damaged"):
        PictureBank(tmp_path)


def test_the_shipped_recipes_are_read():
    for preset in ("smoke", "tiny"):
        shipped_recipe(preset, "autoencoder").read_options(AutoencoderOptions)


def test_an_empty_mouth_is_no_error() -> None:
    video = torch.zeros(1, 3, 5, 16, 16)
    shots = Shots(video, torch.full((1, 5, 2, 4), -50.0))
    assert reconstruction_losses(video, shots, Losses())["absolute"] == 0
