"""The shipped judge reads rendered people it has never seen, and what it is trained with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from liveact_models.evaluate.judge import CHECKPOINT, POSE, SIDE, Judge, JudgeError, mouth_crops, normalised
from liveact_models.evaluate.judge_score import score_judge
from liveact_models.evaluate.judge_training import JudgeRecipe, draw_examples, performance, train_judge
from liveact_models.evaluate.lips import agreement
from liveact_models.evaluate.wishes import WITHIN, wish_seen
from liveact_models.world.draw import draw, mouth_box
from liveact_models.world.identity import Identity


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load()


@pytest.fixture(scope="module")
def talking():
    """Somebody unseen who nods happily: frames [84, 128, 128, 3], motion and mouth."""
    rng = np.random.default_rng(5151)
    identity = Identity.sample(rng)
    motion, mouth = performance(rng, 20 + WITHIN, 1, 1)
    frames = np.stack([draw(identity, motion.state(at), SIDE, SIDE) for at in range(len(mouth))])
    return identity, frames, motion, mouth


# What it reads


def test_the_shipped_judge_reads_unseen_people(judge):
    score = score_judge(judge, people=12)
    assert score.mouth["open"].r >= 0.98
    assert score.mouth["width"].r >= 0.9
    assert score.mouth["round"].r >= 0.95
    assert score.emotion >= 0.85
    assert score.action >= 0.9
    assert score.identity >= 0.99
    assert score.place_error < 2.5


def test_the_file_is_less_than_a_megabyte():
    assert CHECKPOINT.stat().st_size < 1_000_000


def test_pictures_of_another_size_are_read_alike(judge, talking):
    identity, frames, motion, mouth = talking
    larger = np.stack([draw(identity, motion.state(at), 192, 192) for at in range(30)])
    small, large = judge.see(frames[:30]), judge.see(larger)
    assert agreement([mouth[:30, 0]], [large.mouth[:, 0]]).r > 0.97
    np.testing.assert_allclose(small.place, large.place, atol=0.01)


def test_a_frame_is_read_alike_in_any_company(judge, talking):
    frames = talking[1][:20]
    whole, alone = judge.see(frames), judge.see(frames, batch=7)
    np.testing.assert_allclose(whole.mouth, alone.mouth, atol=1e-4)
    np.testing.assert_allclose(whole.pose, alone.pose, atol=1e-4)


def test_a_wish_that_is_acted_is_seen_and_another_is_not(judge, talking):
    sight = judge.see(talking[1])
    assert wish_seen(judge, sight, 20, "happy", "none")
    assert wish_seen(judge, sight, 20, "neutral", "nod")
    assert not wish_seen(judge, sight, 20, "sad", "none")
    assert not wish_seen(judge, sight, 20, "neutral", "wave")


def test_a_wish_needs_two_blocks_to_be_seen_in(judge, talking):
    sight = judge.see(talking[1])
    with pytest.raises(ValueError, match="accepted are 64 frames after it"):
        wish_seen(judge, sight, 21, "happy", "none")
    with pytest.raises(ValueError, match="neither"):
        wish_seen(judge, sight, 20, "neutral", "none")


def test_frames_of_another_kind_are_refused(judge):
    with pytest.raises(ValueError, match="accepted are uint8"):
        judge.see(np.zeros((2, 8, 8, 3), np.float32))


def test_a_file_that_is_no_judge_is_named_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(JudgeError, match="liveact evaluate judge --train"):
        Judge.load(tmp_path / "none.safetensors")


# How it is made


def test_crops_are_cut_where_the_mouth_is():
    pictures = torch.zeros(2, 3, SIDE, SIDE)
    pictures[0, :, 40:42, 70:72] = 1
    pictures[1, :, 100:102, 30:32] = 1
    crops = mouth_crops(pictures, torch.tensor([[71 / SIDE, 41 / SIDE], [31 / SIDE, 101 / SIDE]]))
    middle = crops[:, :, 23:25, 23:25]
    torch.testing.assert_close(middle, torch.ones_like(middle))
    assert crops.sum() == pytest.approx(2 * 3 * 4, rel=1e-5)


def test_examples_hold_the_truth_of_their_pictures():
    examples = draw_examples(2, 4, seed=3)
    assert len(examples) == 8
    patch = normalised(examples.patches)
    assert patch.shape == (8, 3, SIDE, SIDE)
    assert (np.abs(examples.inside - 36) <= 0.5 + 1e-3).all()
    assert examples.mouth.min() >= 0
    assert examples.mouth.max() <= 1
    assert examples.pose.shape == (8, len(POSE))
    assert len(set(examples.emotion[:4].tolist())) <= 2
    # The same people again.
    np.testing.assert_array_equal(examples.looks, draw_examples(2, 4, seed=3).looks)


def test_places_are_the_mouth_boxes_middles(talking):
    identity, _, motion, _ = talking
    x0, y0, x1, y1 = mouth_box(identity, motion.state(0))
    assert 0.3 < (x0 + x1) / 2 < 0.7
    assert 0.5 < (y0 + y1) / 2 < 0.95


def test_training_learns_and_the_same_seed_gives_the_same_judge(tmp_path):
    recipe = JudgeRecipe(people=24, frames_each=4, batch_people=12, steps=12, action_tracks=40, action_steps=8)
    done: list[str] = []
    first = train_judge(recipe, report=lambda what, at, total: done.append(what))
    second = train_judge(recipe)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert list(dict.fromkeys(done)) == ["drawing frames", "learning to see", "learning actions"]
    first.save(tmp_path / "new" / "judge.safetensors")
    again = Judge.load(tmp_path / "new" / "judge.safetensors")
    frames = np.zeros((1, 128, 128, 3), np.uint8)
    np.testing.assert_allclose(again.see(frames).mouth, first.see(frames).mouth, atol=5e-3)
