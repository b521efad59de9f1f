"""The weights that come with the package: whoever starts the service sees a face that says what is heard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from liveact_models.checkpoint import open_checkpoint
from liveact_models.checkpoint.errors import CheckpointError
from liveact_models.checkpoint.layouts import shipped_folder
from liveact_models.config import preset
from liveact_models.evaluate.contenders import Autoencoder, Model
from liveact_models.evaluate.judge import shipped_judge
from liveact_models.evaluate.suites import Script, lips_suite
from liveact_models.pipeline import Pipeline
from liveact_models.training.package import MAX_BYTES
from liveact_services.config import ServiceConfig


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield Pipeline(open_checkpoint("shipped", "tiny"))
    torch.set_num_threads(threads)


def test_the_service_starts_with_them() -> None:
    checkpoint = ServiceConfig().open_checkpoint()
    assert checkpoint.trained
    assert checkpoint.config == preset("tiny")


def test_they_are_small_and_have_a_card() -> None:
    folder = shipped_folder("tiny")
    assert sum(path.stat().st_size for path in folder.iterdir()) <= MAX_BYTES
    card = (folder / "README.md").read_text()
    assert "Not measured yet" not in card
    assert all(f"| `{stage}` |" in card for stage in ("encoders", "autoencoder", "stage1", "stage2", "decoder"))


def test_a_model_without_shipped_weights_says_so() -> None:
    with pytest.raises(CheckpointError, match="no weights of 'soulx-liveact-18b' come with this package"):
        open_checkpoint("shipped", "soulx-liveact-18b")


def test_lips_follow_the_voice(pipeline: Pipeline, tmp_path: Path) -> None:
    result = lips_suite(
        [Model("tiny", pipeline)], {"held out": ("espeak-en-us-klatt", None)}, Script(count=2, blocks=3), shipped_judge(),
        tmp_path, autoencoder=Autoencoder(pipeline), phonemes=False,
    )  # fmt: skip
    rows = {row["contender"]: row for row in result.rows}
    talking, deaf = rows["tiny"], rows["tiny, wrong voice"]
    assert talking["open r"] > 0.85
    assert talking["open slope"] > 0.7
    assert abs(talking["best lag"]) <= 1
    assert deaf["open r"] < 0.5
    assert talking["sharpness"] > 0.75
    assert talking["frechet"] < 0.03
    assert rows["autoencoder alone"]["open r"] > 0.95
