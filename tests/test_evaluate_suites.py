"""The suites tell a perfect model from a bad one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from liveact_models.evaluate.contenders import Frames, Rendered
from liveact_models.evaluate.judge import shipped_judge
from liveact_models.evaluate.suites import Script, drift_suite, lips_suite, prompts_suite, scenes
from liveact_models.world.clip import Clip, make_clip

VOICES = Path(__file__).parent / "voices"
SCRIPT = Script(count=2, blocks=2, size=64)


class Perfect:
    """A model that paints the truth."""

    name = "perfect"

    def perform(self, clip: Clip) -> Iterator[Frames]:
        yield from Rendered().perform(clip)


class Shuffled:
    """The right pictures at the wrong times."""

    name = "shuffled"

    def perform(self, clip: Clip) -> Iterator[Frames]:
        yield clip.frames()[np.random.default_rng(0).permutation(clip.length)]


class Late:
    """The truth two frames late."""

    name = "late"

    def perform(self, clip: Clip) -> Iterator[Frames]:
        frames = clip.frames()
        yield np.concatenate((frames[:1], frames[:1], frames[:-2]))


class Fading:
    """The truth, which turns grey over a minute."""

    name = "fading"

    def perform(self, clip: Clip) -> Iterator[Frames]:
        for part in Rendered().perform(clip):
            self._faded = getattr(self, "_faded", 0) + len(part)
            kept = max(0.0, 1 - self._faded / 1200)
            yield (kept * part + (1 - kept) * 128).astype(np.uint8)


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def lips(tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("lips")
    contenders = [Perfect(), Shuffled(), Late()]
    result = lips_suite(contenders, {"formant": ("espeak-en-us-klatt",)}, SCRIPT, shipped_judge(), out)
    return {row["contender"]: row for row in result.rows}, result


# Lips


def test_a_perfect_model_scores_as_the_truth_does(lips):
    rows, _ = lips
    assert rows["perfect"] == rows["rendered truth"] | {"contender": "perfect"}
    assert rows["perfect"]["open r"] > 0.97
    assert rows["perfect"]["open slope"] > 0.85
    assert rows["perfect"]["best lag"] == 0
    assert rows["perfect"]["frechet"] == pytest.approx(0, abs=1e-6)
    assert rows["perfect"]["sharpness"] == pytest.approx(1)


def test_shuffled_frames_score_nothing(lips):
    rows, _ = lips
    assert rows["shuffled"]["open r"] < 0.4
    assert rows["shuffled"]["round r"] < 0.4
    assert rows["shuffled"]["hama closes"] < rows["perfect"]["hama closes"] / 2
    # And yet they are the same pictures.
    assert rows["shuffled"]["frechet"] == pytest.approx(0, abs=1e-6)


def test_a_late_mouth_is_said_to_be_late(lips):
    rows, _ = lips
    assert rows["late"]["best lag"] == 2
    assert rows["late"]["open r"] < rows["perfect"]["open r"] - 0.3


def test_who_listens_to_the_truth_alone_is_not_harmed_by_a_wrong_voice(lips):
    # The stand-in does not hear; a model that does must fall in this row.
    rows, _ = lips
    assert rows["perfect, wrong voice"]["open r"] == rows["perfect"]["open r"]


def test_a_sheet_shows_truth_and_contenders(lips):
    _, result = lips
    assert [path.name for path in result.pictures] == ["lips-formant.png"]
    assert result.pictures[0].read_bytes().startswith(b"\x89PNG")


def test_every_scene_has_another_person_and_another_sentence():
    one, other = scenes(SCRIPT, ("espeak-en-us-klatt",))
    assert one.clip.identity != other.clip.identity
    assert one.clip.utterance.text != other.clip.utterance.text
    assert one.clip.length == SCRIPT.frames == 53


def test_recorded_people_say_their_own_words():
    from liveact_models.world.voices.human import RecordedVoice

    (scene,) = scenes(Script(count=1, blocks=2, size=64), (RecordedVoice(VOICES / "arctic"),))
    assert scene.clip.utterance.voice == "recorded-arctic"
    assert scene.clip.mouth[:, 0].max() > 0.3


# Drift and prompts


def test_fading_is_drift_and_the_truth_has_none(tmp_path):
    result = drift_suite([Fading()], 0.4, shipped_judge(), tmp_path, size=64, window_s=6)
    truth, fading = result.rows
    assert truth["windows"] == fading["windows"] == 4
    assert truth["background ratio"] < 1.2
    assert fading["background last"] > 10 * truth["background last"]
    assert fading["layout ratio"] > 1.5
    assert {path.name for path in result.pictures} == {"drift.png", "drift-frames.png"}
    assert all(path.is_file() for path in result.pictures)


def test_wishes_are_seen_in_the_truth_and_not_where_nobody_obeys(tmp_path):
    class Deaf:
        name = "deaf"

        def perform(self, clip: Clip) -> Iterator[Frames]:
            yield from Rendered().perform(
                make_clip(clip.seed, clip.length, "test", clip.size, asked=[(0, "neutral", "none")])
            )

    wishes = (("happy", "none"), ("neutral", "shake"), ("neutral", "wave"))
    rows = prompts_suite([Deaf()], 1, shipped_judge(), tmp_path, size=64, wishes=wishes).rows
    everything = {row["contender"]: row for row in rows if row["wish"] == "everything"}
    assert everything["rendered truth"]["seen"] == 1
    assert everything["deaf"]["seen"] <= 0.34
    assert everything["deaf"]["seen"] == everything["deaf"]["seen unasked"]
    assert everything["rendered truth"]["clips"] == 3
    assert not math.isnan(everything["rendered truth"]["change"])
