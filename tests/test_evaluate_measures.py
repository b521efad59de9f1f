"""The measures of `liveact evaluate` on tracks, features and pictures whose answer is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from liveact_models.evaluate.drift import Drift, plot_drifts
from liveact_models.evaluate.frechet import Gaussian, RandomFeatures, frechet_distance, random_features
from liveact_models.evaluate.judge import Sight
from liveact_models.evaluate.lips import agreement, agreements
from liveact_models.evaluate.liveliness import blinks, head_motion
from liveact_models.evaluate.phonemes import best_shift, hear, phoneme_report, shifted
from liveact_models.evaluate.sharpness import gradient_energy, sharpness
from liveact_models.evaluate.sheet import write_sheet
from liveact_models.evaluate.suites.result import SuiteResult


def track(length: int = 200, seed: int = 0) -> np.ndarray:
    """A smooth track [length] without a period."""
    noise = np.random.default_rng(seed).standard_normal(length + 8)
    return np.convolve(noise, np.hanning(9), mode="valid")


def pictures(count: int = 40, side: int = 64, seed: int = 0) -> np.ndarray:
    """Blocks of random colours: uint8 [count, side, side, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, side // 8, side // 8, 3), np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def blurred(frames: np.ndarray, times: int = 2) -> np.ndarray:
    soft = frames.astype(np.float32)
    for _ in range(times):
        for axis in (1, 2):
            soft = (np.roll(soft, 1, axis) + 2 * soft + np.roll(soft, -1, axis)) / 4
    return soft.round().astype(np.uint8)


# Lips


def test_a_track_agrees_with_itself_wholly():
    found = agreement([track()], [track()])
    assert found.r == pytest.approx(1)
    assert found.slope == pytest.approx(1)
    assert found.lag == 0


def test_half_the_amplitude_is_half_the_slope_at_full_correlation():
    found = agreement([track()], [0.5 * track() + 0.2])
    assert (found.r, found.slope) == (pytest.approx(1), pytest.approx(0.5))


@pytest.mark.parametrize("late", [-4, -1, 2, 6])
def test_a_late_mouth_has_its_lateness_as_lag(late):
    true = track()
    found = agreement([true[10:-10]], [true[10 - late : len(true) - 10 - late]])
    assert found.lag == late
    assert found.r_at_lag == pytest.approx(1)
    assert found.r < 0.95


def test_videos_are_pooled_and_no_lag_looks_across_their_ends():
    one, other = track(60, 1), track(80, 2)
    found = agreement([one, other], [one, 0 * other])
    by_hand = np.corrcoef(np.concatenate((one, other)), np.concatenate((one, 0 * other)))[0, 1]
    assert found.r == pytest.approx(by_hand)
    # Joined end to end, the second video's start would be what the first video's end is shifted onto.
    true, shown = [np.ones(20) * (i % 7) for i in range(2)], [np.arange(20.0), np.arange(20.0)]
    assert agreement(true, shown).r == pytest.approx(0)


def test_a_mouth_that_never_moves_has_no_correlation():
    found = agreement([track()], [np.zeros(200)])
    assert math.isnan(found.r)
    assert found.slope == 0


def test_tracks_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match=r"video 1: tracks \(200,\) and \(199,\)"):
        agreement([track(), track()], [track(), track()[1:]])
    with pytest.raises(ValueError, match="0 true tracks"):
        agreement([], [])


def test_channels_are_told_apart():
    truth = np.stack([track(seed=seed) for seed in range(4)], axis=1)
    seen = truth.copy()
    seen[:, 1] = track(seed=9)
    found = agreements([truth], [seen])
    assert [name for name, one in found.items() if one.r > 0.99] == ["open", "round", "teeth"]


# Liveliness


def test_every_shutting_of_the_lids_is_one_blink():
    assert blinks(np.array([0.9, 0.9, 0.1, 0.4, 0.6, 0.2])) == 2
    assert blinks(np.zeros(5)) == 0


def test_a_head_s_motion_is_about_its_own_mean_pose():
    swing = np.stack([np.tile([-1.0, 1.0], 10)] * 3, axis=1)
    assert head_motion([swing, swing + 5]) == pytest.approx(1)
    assert head_motion([swing, 0 * swing + 3]) == pytest.approx(math.sqrt(0.5))


# Sharpness


def test_blur_lowers_sharpness_and_noise_raises_it():
    true = pictures()
    noise = np.random.default_rng(3).integers(-20, 21, true.shape)
    assert sharpness(true, true) == 1
    assert sharpness(blurred(true), true) < 0.5
    assert sharpness((true + noise).clip(0, 255).astype(np.uint8), true) > 1.01


def test_gradient_energy_is_that_of_one_edge():
    frames = np.zeros((1, 2, 2, 3), np.uint8)
    frames[0, :, 1] = 255
    assert gradient_energy(frames) == 1.0


def test_pictures_without_an_edge_cannot_be_compared_with():
    with pytest.raises(ValueError, match="no edge"):
        sharpness(pictures(), np.zeros((1, 8, 8, 3), np.uint8))


# Fréchet distance


def test_the_distance_of_two_gaussians_is_the_formula_s():
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((5, 5))
    one = Gaussian(rng.standard_normal(5), np.eye(5))
    other = Gaussian(rng.standard_normal(5), mixing @ mixing.T)
    # With one covariance the identity, the root of the product is that of the other: its trace is the singular values' sum.
    expected = np.square(one.mean - other.mean).sum() + 5 + np.trace(other.covariance)
    expected -= 2 * np.linalg.svd(mixing, compute_uv=False).sum()
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(other, one) == pytest.approx(expected, rel=1e-9)


def test_fewer_pictures_than_features_do_no_harm():
    features = np.random.default_rng(1).standard_normal((6, 40))
    assert frechet_distance(Gaussian.of(features), Gaussian.of(features)) == pytest.approx(0, abs=1e-6)
    moved = Gaussian.of(features + 1)
    assert frechet_distance(Gaussian.of(features), moved) == pytest.approx(40, rel=1e-6)


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        Gaussian.of(np.full((3, 2), np.nan))
    with pytest.raises(ValueError, match=r"\(1, 2\)"):
        Gaussian.of(np.zeros((1, 2)))


def test_the_feature_space_is_the_same_everywhere():
    first = RandomFeatures().layers[0].weight
    # RandomState(20170626).standard_normal's first draw is -0.99..; a changed space would make old figures meaningless.
    rng = np.random.RandomState(20170626)
    weight = rng.standard_normal((24, 3, 5, 5)) * math.sqrt(2 / 75)
    expected = weight - weight.mean(axis=(2, 3), keepdims=True)
    torch.testing.assert_close(first.detach(), torch.from_numpy(expected.astype(np.float32)))
    assert random_features(pictures(3)).shape == (3, RandomFeatures().dim)


def test_worse_pictures_lie_further_off():
    truth = Gaussian.of(random_features(pictures(seed=0)))
    same, soft, softer, other = (
        frechet_distance(truth, Gaussian.of(random_features(frames)))
        for frames in (
            pictures(seed=1),
            blurred(pictures(seed=1), 1),
            blurred(pictures(seed=1), 3),
            pictures(seed=1) // 2,
        )
    )
    assert same < soft < softer
    assert same < other


# Drift


class Eye:
    """A judge that takes a picture's mean colour for who it shows."""

    def see(self, frames: np.ndarray) -> Sight:
        colour = frames.mean(axis=(1, 2)).astype(np.float32)
        identity = colour / np.linalg.norm(colour, axis=1, keepdims=True)
        nothing = np.zeros((len(frames), 1), np.float32)
        return Sight(nothing, nothing, nothing, nothing, identity)


def drifting(name: str, shift: float) -> Drift:
    """Five windows of 8 s in parts of 2 s; the red of the picture grows by `shift` a part."""
    portrait = np.full((40, 40, 3), 100, np.uint8)
    drift = Drift(name, 20, Eye(), portrait)  # type: ignore[arg-type]
    for part in range(20):
        frames = np.repeat(portrait[None], 40, axis=0)
        frames[..., 0] += round(part * shift)
        drift.add(frames)
    return drift


def test_a_still_portrait_does_not_drift():
    windows = drifting("still", 0).windows(8)
    assert windows.shape == (5, 3)
    np.testing.assert_allclose(windows, 0, atol=1e-6)


def test_a_steady_change_shows_in_every_measure_and_in_the_ratios():
    drift = drifting("reddening", 4)
    windows = drift.windows(8)
    assert (np.diff(windows, axis=0) > 0).all()
    # Parts 16..19 against parts 4..7, a third of the channels changed.
    assert windows[-1, 1] == pytest.approx(np.mean([16, 17, 18, 19]) * 4 / 255 / 3, rel=1e-4)
    assert drift.ratios(8)["background"] == pytest.approx(17.5 / 5.5, rel=1e-3)


def test_windows_longer_than_the_video_are_refused():
    with pytest.raises(ValueError, match=r"still: 40\.0 s of video hold no window of 60 s"):
        drifting("still", 0).windows(60)


def test_drifts_are_plotted(tmp_path):
    plot_drifts([drifting("still", 0), drifting("reddening", 4)], tmp_path / "new" / "drift.png")
    assert (tmp_path / "new" / "drift.png").read_bytes().startswith(b"\x89PNG")


# Phonemes


@pytest.fixture(scope="module")
def spoken():
    """What hama hears in six seconds of a voice, and the true mouth [120, 4]."""
    from liveact_models.world.mouth import mouth_track
    from liveact_models.world.voices import speech

    said = speech(5, 6.0, "test", "espeak-en-us-f3", augment=False)
    return hear(said.samples), mouth_track(said.phones, 120, 20)


def test_hama_hears_the_phonemes_that_were_spoken_a_little_late(spoken):
    heard, truth = spoken
    seconds = best_shift([heard], [truth])
    assert -0.1 <= seconds <= 0
    assert phoneme_report([shifted(heard, seconds)], [truth]).agreement["open"].r > 0.7


def test_a_fitting_mouth_closes_at_closed_phonemes_and_another_one_does_not(spoken):
    heard, truth = shifted(spoken[0], best_shift([spoken[0]], [spoken[1]])), spoken[1]
    fitting, foreign = (phoneme_report([heard], [mouth]) for mouth in (truth, truth[::-1]))
    assert fitting.closes > 0.3
    assert fitting.rounds > 0.3
    assert foreign.closes < fitting.closes / 2
    assert fitting.by_class["closed"]["count"] > 3


# What is written


def test_results_are_json_with_all_that_is_needed_to_measure_again(tmp_path):
    result = SuiteResult("lips", [{"contender": "a", "open r": float("nan"), "clips": 2}], {"first_seed": 7})
    path = result.write(tmp_path / "new", "liveact evaluate lips", "two cores")
    written = json.loads(path.read_text())
    assert written["rows"] == [{"contender": "a", "open r": None, "clips": 2}]
    assert written["command"] == "liveact evaluate lips"
    assert written["hardware"] == "two cores"
    assert written["settings"] == {"first_seed": 7}
    assert written["date"]


def test_a_sheet_has_a_line_for_every_row(tmp_path):
    from PIL import Image

    frames = pictures(3, 16)
    path = write_sheet([("one", frames), ("two", frames[:2])], tmp_path / "sheet.png", "title")
    with Image.open(path) as sheet:
        assert sheet.size == (3 * 18 + 2, 14 + 2 * (16 + 14) + 2)
        np.testing.assert_array_equal(np.asarray(sheet)[28:44, 20:36], frames[1])
        np.testing.assert_array_equal(np.asarray(sheet)[58:74, 2:18], frames[0])
    with pytest.raises(ValueError, match="no picture"):
        write_sheet([("one", [])], tmp_path / "none.png")
