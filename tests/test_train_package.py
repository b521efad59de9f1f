"""The end of a run: its products as a checkpoint with a card, and the table of forcings trained from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from clip_fixtures import run_with_clips
from liveact_models.checkpoint import open_checkpoint
from liveact_models.checkpoint.layouts import MODULES
from liveact_models.encoders.text import TOKENIZER_FILE, tokenizer_json
from liveact_models.training import comparison
from liveact_models.training.loop import train
from liveact_models.training.package import PackageStage
from liveact_models.training.recipe import Recipe
from liveact_models.training.run_folder import RunError, RunFolder
from liveact_models.training.stages import open_stage
from liveact_models.training.towers import corpus, train_tokenizer


@pytest.fixture
def finished(tmp_path: Path) -> RunFolder:
    """A run whose every product is there."""
    run = run_with_clips(tmp_path / "run")
    checkpoint = open_checkpoint("untrained", "tiny")
    for name in MODULES:
        module = getattr(checkpoint, f"load_{name}")()
        run.save_product(name, module.state_dict())
    words = train_tokenizer(corpus(0, 200), checkpoint.config.text_encoder.vocab)
    (run.products / TOKENIZER_FILE).write_text(tokenizer_json(words))
    return run


def packaged(run: RunFolder) -> Path:
    recipe = Recipe(preset="test", stage="package", steps=1)
    assert train(open_stage(recipe, run, torch.device("cpu")), recipe, run).state == "finished"
    return run.path / "checkpoint"


def test_a_package_holds_the_products_at_half_their_size(finished) -> None:
    folder = packaged(finished)
    opened = open_checkpoint(folder)
    for name in MODULES:
        with safe_open(folder / f"{name}.safetensors", "pt") as file:
            kinds = {file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118
        assert kinds == {torch.float16}
        served = getattr(opened, f"load_{name}")().state_dict()
        for key, tensor in finished.load_product(name).items():
            torch.testing.assert_close(served[key], tensor, rtol=1e-3, atol=1e-6)


def test_the_card_says_what_was_run_and_what_was_not_measured(finished) -> None:
    card = (packaged(finished) / "README.md").read_text()
    assert "| `package` |" in card
    assert "Not measured yet." in card
    (finished.path / "figures.md").write_text("| lips | r .93 |")
    assert "| lips | r .93 |" in (packaged_again(finished) / "README.md").read_text()


def packaged_again(run: RunFolder) -> Path:
    PackageStage(Recipe(preset="test", stage="package", steps=1), run, torch.device("cpu")).finish()
    return run.path / "checkpoint"


@pytest.mark.slow
def test_forcings_are_trained_alike_and_once(finished, monkeypatch) -> None:
    options = {"stage1": {"blocks": 2}}
    monkeypatch.setattr(
        comparison,
        "shipped_recipe",
        lambda preset, stage: Recipe(
            preset=preset, stage=stage, steps=1, batch=2, lr=1e-3, options=options.get(stage, {})
        ),
    )
    told: list[str] = []

    def both() -> dict[str, Path]:
        told.clear()
        return dict(comparison.train_forcings(finished, 2, lambda name, status: told.append(name), compile=False))

    folders = both()
    assert list(folders) == list(comparison.FORCINGS)
    assert set(told) == set(comparison.FORCINGS)
    neighbor, diffusion = (open_checkpoint(folder).load_transformer().state_dict() for folder in folders.values())
    assert any(not torch.equal(tensor, diffusion[name]) for name, tensor in neighbor.items())
    before = [path.stat().st_mtime_ns for path in _saved(folders)]
    both()
    assert [path.stat().st_mtime_ns for path in _saved(folders)] == before


def test_forcings_need_the_latents(tmp_path) -> None:
    with pytest.raises(RunError, match="liveact train latents"):
        next(comparison.train_forcings(RunFolder(tmp_path / "empty"), 2, lambda name, status: None))


def _saved(folders: dict[str, Path]) -> list[Path]:
    """What a step of training would write."""
    return [
        path for folder in folders.values() for path in sorted((folder.parent / "checkpoints" / "stage1").iterdir())
    ]
