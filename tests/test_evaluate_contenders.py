"""What `liveact evaluate` measures is the pipeline as it is served; and the command that does it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from rich.console import Console
from typer.testing import CliRunner

from liveact_models.checkpoint import open_checkpoint
from liveact_models.config import SamplingConfig, preset
from liveact_models.evaluate.contenders import Autoencoder, Model, WrongVoice, many_steps, video
from liveact_models.evaluate.suites import SuiteResult
from liveact_models.pipeline import Pipeline
from liveact_models.world.clip import make_clip
from liveact_services.cli import evaluate
from liveact_services.cli.evaluate import models, report
from liveact_services.cli.exits import BadInput


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(open_checkpoint("untrained", "tiny"))


# The model


def test_the_model_makes_a_video_as_long_as_the_clip(pipeline):
    clip = make_clip(3, 53, "test", 64, "espeak-en-us-klatt", asked=[(0, "neutral", "none")])
    frames = video(Model("model", pipeline), clip)
    assert frames.shape == (53, 64, 64, 3)
    assert frames.dtype == np.uint8
    np.testing.assert_array_equal(frames, video(Model("model", pipeline), clip))


def test_the_model_hears_the_clip_and_obeys_its_prompts_from_their_block_on(pipeline):
    plain, asked = (
        make_clip(3, 85, "test", 64, "espeak-en-us-klatt", asked=[(0, "neutral", "none"), *more])
        for more in ([], [(53, "happy", "wave")])
    )
    other = make_clip(4, 85, "test", 64, "espeak-en-us-klatt", asked=[(0, "neutral", "none")])
    model = Model("model", pipeline)
    before, after = video(model, plain), video(model, asked)
    np.testing.assert_array_equal(before[:53], after[:53])
    assert not np.array_equal(before[53:], after[53:])
    deaf = video(WrongVoice(model, {plain.seed: other.utterance}), plain)
    assert not np.array_equal(before, deaf)


def test_the_same_modules_are_sampled_another_way(pipeline):
    clip = make_clip(3, 21, "test", 64, "espeak-en-us-klatt", asked=[(0, "neutral", "none")])
    teacher = Model("teacher", pipeline, many_steps(pipeline.denoiser.sampling, 6))
    assert not np.array_equal(video(teacher, clip), video(Model("model", pipeline), clip))
    assert pipeline.denoiser.sampling.num_steps == 3


def test_the_autoencoder_gives_the_truth_back_in_its_own_words(pipeline):
    clip = make_clip(3, 23, "test", 64, "espeak-en-us-klatt", asked=[(0, "neutral", "none")])
    assert video(Autoencoder(pipeline), clip).shape == (23, 64, 64, 3)


def test_many_steps_begin_as_the_three_do_at_four_steps():
    sampling = many_steps(SamplingConfig(), 4)
    assert sampling.timesteps[:3] == pytest.approx(preset("tiny").sampling.timesteps)
    assert sampling.sampler == "euler"
    with pytest.raises(ValueError, match="0 steps"):
        many_steps(SamplingConfig(), 0)


# The command


def test_every_figure_of_every_contender_is_shown():
    rows: list = [
        {"contender": name, "voices": group, "clips": 2, "open r": value, "frechet": 0.00123}
        for group in ("trained", "held-out")
        for name, value in (("truth", 0.99), ("model", float("nan")))
    ]
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(*report.tables(SuiteResult("lips", rows, {})))
    text = console.export_text()
    assert text.count("truth") == text.count("model") == text.count("open r") == 2
    assert "lips: held-out voices" in text
    assert "0.990" in text
    assert "0.0012" in text


def test_against_names_a_model_its_checkpoint_and_its_sampling():
    assert models.parse_against("mean memory=,memory=mean") == ("mean memory", "", {"memory": "mean"})
    assert models.parse_against("teacher=runs/a,steps=24") == ("teacher", "runs/a", {"steps": 24})
    with pytest.raises(typer.BadParameter, match="expected NAME=CHECKPOINT"):
        models.parse_against("teacher")
    with pytest.raises(typer.BadParameter, match="expected NAME=CHECKPOINT"):
        models.parse_against("teacher=a,steps")


def test_voices_never_trained_on_make_groups_of_their_own():
    groups = models.voice_groups()
    assert groups["trained"] == (None,)
    assert all(name.startswith("held-out ") for name in list(groups)[1:])
    assert len(groups) > 1
    recorded = models.voice_groups([Path(__file__).parent / "voices" / "arctic"])
    assert list(recorded) == [*groups, "recorded-arctic"]
    with pytest.raises(BadInput, match="no clip"):
        models.voice_groups([Path(__file__).parent])


def test_the_command_measures_the_untrained_model(tmp_path):
    asked = ["steps", "--checkpoint", "untrained", "--clips", "1", "--blocks", "2", "--size", "64", "--many-steps", "4"]
    result = CliRunner().invoke(
        evaluate.app, [*asked, "--against", "none=,memory=none", "--threads", "1", "--out", str(tmp_path), "--json"]
    )
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout.splitlines()[-1])
    names = [row["contender"] for row in figures["rows"]]
    assert names == ["rendered truth", "tiny, 3 steps", "teacher, 4 steps", "none"]
    assert figures["rows"][0]["open r"] > 0.9
    assert {"date", "hardware", "command", "settings"} <= figures.keys()
    assert json.loads((tmp_path / "steps.json").read_text())["rows"] == figures["rows"]
    assert (tmp_path / "steps-trained.png").is_file()
