"""Golden tensors of the official code: every module reproduces them, and a folder that cannot be compared is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from liveact_models import parity
from liveact_models.parity.golden import read_tensors

GOLDEN = Path(__file__).parent / "golden"


def folder_with(tmp_path: Path, *modules: str) -> Path:
    for module in modules:
        for file in GOLDEN.glob(f"{module}.*"):
            shutil.copy(file, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("module", "whats"),
    [
        ("vae", ["encoded", "decoded", "decoded"]),
        ("t5", ["output"]),
        ("clip", ["output"]),
        ("wav2vec2", ["normalized", "embedding"]),
    ],
)
def test_each_module_reproduces_the_official_code(tmp_path, module, whats):
    rows = parity.run(folder_with(tmp_path, module))
    assert [row.what for row in rows] == whats
    for row in rows:
        assert row.module == module
        assert row.error <= 1e-5, row  # ten times closer than the threshold asks


def test_changed_weights_are_found_out(tmp_path):
    folder_with(tmp_path, "wav2vec2")
    weights = read_tensors(tmp_path, "wav2vec2.weights")
    weights["encoder.layer_norm.weight"] *= 1.01
    save_file(weights, tmp_path / "wav2vec2.weights.safetensors")
    errors = {row.what: row.error for row in parity.run(tmp_path)}
    assert errors["embedding"] > parity.THRESHOLD
    assert errors["normalized"] <= parity.THRESHOLD


def test_a_folder_that_cannot_be_compared_is_named(tmp_path):
    def message() -> str:
        with pytest.raises(parity.ParityError) as caught:
            parity.run(tmp_path)
        return str(caught.value)

    assert "vae.json" in message()
    (tmp_path / "clip.json").write_text("{")
    assert "not a readable configuration" in message()
    shutil.copy(GOLDEN / "clip.json", tmp_path)
    assert "clip.weights.safetensors" in message()
    weights = read_tensors(GOLDEN, "clip.weights")
    weights["transformer.0.norm1.bias"] = torch.zeros(5)
    save_file(weights, tmp_path / "clip.weights.safetensors")
    assert "layer_norm1.bias" in message()
    shutil.copy(GOLDEN / "clip.weights.safetensors", tmp_path)
    save_file({"pixels": torch.zeros(1, 3, 56, 56)}, tmp_path / "clip.io.safetensors")
    assert "output" in message()
    with pytest.raises(parity.ParityError, match="no such folder"):
        parity.run(tmp_path / "nowhere")


def test_relative_error_is_the_norm_of_the_difference_over_the_norm():
    golden = torch.tensor([3.0, 4.0])
    assert parity.relative_error(golden, golden) == 0
    assert parity.relative_error(torch.tensor([3.0, 4.5]), golden) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="shapes differ"):
        parity.relative_error(torch.zeros(3), golden)


def test_fields_of_a_configuration_that_fix_no_shape_are_passed_over(tmp_path):
    folder_with(tmp_path, "t5")
    settings = json.loads((tmp_path / "t5.json").read_text()) | {"author": "someone"}
    (tmp_path / "t5.json").write_text(json.dumps(settings))
    assert parity.run(tmp_path)[0].error <= parity.THRESHOLD
