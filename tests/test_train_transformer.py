"""Stages 1 and 2 on a small bank of made-up clips: they learn, and what stage 2 rolls out is what inference makes."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from clip_fixtures import BLOCKS, bank, run_with_clips
from liveact_models.checkpoint.weights import untrained
from liveact_models.config import preset
from liveact_models.denoiser import BlockDenoiser
from liveact_models.sampler import seeded_noise
from liveact_models.timeline import block_frames, block_latents
from liveact_models.training import TrainingError
from liveact_models.training.clip_bank import ClipBank
from liveact_models.training.clip_transformer import ClipConditions, clip_latents, clip_velocity
from liveact_models.training.distill import DistillStage, extended, rollout
from liveact_models.training.loop import train
from liveact_models.training.neighbor import NeighborStage, add_noise, draw_times, noise_level
from liveact_models.training.recipe import Recipe
from liveact_models.training.run_folder import RunFolder
from liveact_models.transformer import LiveActTransformer


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return run_with_clips(tmp_path / "run")


def recipe(stage: str, **fields) -> Recipe:
    return Recipe(**{"preset": "test", "stage": stage, "lr": 3e-3, "batch": 4, "steps": 24, "log_every": 1, **fields})


def test_a_bank_comes_back_as_it_was_saved(run) -> None:
    loaded, made = ClipBank.load(run.latents), bank()
    for field in dataclasses.fields(ClipBank):
        assert torch.equal(getattr(loaded, field.name), getattr(made, field.name))
    batch = loaded.batch(torch.tensor([2, 0]), 2)
    assert torch.equal(batch.latents[1], made.latents[0, :, : clip_latents(2)].float())
    second = made.features[2, len(block_frames(0)) + 4 :][: len(block_frames(1)) + 4]
    assert torch.equal(batch.conditions.audio[1][0], second.float())


def test_no_clips_say_what_to_run(tmp_path) -> None:
    with pytest.raises(TrainingError, match="liveact train latents"):
        ClipBank.load(tmp_path)


@pytest.mark.slow
def test_stage1_learns_from_the_sound(run) -> None:
    losses: list[float] = []
    one = recipe("stage1", options={"blocks": 2, "memory_from": 0.5})
    stage = NeighborStage(one, run, torch.device("cpu"))
    train(stage, one, run, report=lambda status: losses.append(status.metrics.get("velocity", float("nan"))))
    measured = [loss for loss in losses if loss == loss]
    assert sum(measured[-4:]) < 0.75 * sum(measured[:4])
    assert set(run.load_product("teacher")) == set(LiveActTransformer(preset("tiny").transformer).state_dict())


@pytest.mark.slow
def test_the_first_cycle_draws_from_the_first_clips(run, monkeypatch) -> None:
    one = recipe(
        "stage1", steps=12, schedule={"cycles": 2}, options={"blocks": 2, "memory_from": 0.5, "first_clips": 2}
    )
    stage = NeighborStage(one, run, torch.device("cpu"))
    drawn: list[tuple[list[int], int]] = []
    whole = stage.bank.batch

    def noted(chosen, blocks, device):
        drawn.append((chosen.tolist(), blocks))
        return whole(chosen, blocks, device)

    monkeypatch.setattr(stage.bank, "batch", noted)
    train(stage, one, run)
    assert [blocks for _, blocks in drawn] == [2, 2, 2, 3, 3, 3] * 2
    assert all(clip < 2 for clips, _ in drawn[:6] for clip in clips)
    assert any(clip >= 2 for clips, _ in drawn[6:] for clip in clips)


@pytest.mark.slow
def test_stage2_trains_the_student_and_not_the_teacher(run) -> None:
    first = recipe("stage1", steps=2)
    train(NeighborStage(first, run, torch.device("cpu")), first, run)
    second = recipe("stage2", steps=3, batch=2, lr=1e-3, options={"blocks": 4, "fake_updates": 2})
    stage = DistillStage(second, run, torch.device("cpu"))
    status = train(stage, second, run)
    assert {"student", "fooled", "truth", "critic", "pull"} <= set(status.metrics)
    student, teacher = run.load_product("transformer"), run.load_product("teacher")
    assert all(torch.equal(teacher[name], tensor) for name, tensor in stage.teacher.state_dict().items())
    changed = [name for name in teacher if not torch.equal(student[name], teacher[name])]
    assert any("memory_proj_k" in name for name in changed)
    assert any("ffn" in name for name in changed)


@torch.no_grad()
def test_a_rollout_is_what_the_denoiser_makes() -> None:
    config = preset("tiny")
    transformer = LiveActTransformer(config.transformer)
    transformer.load_state_dict(untrained(transformer, "rollout", device="cpu", dtype=torch.float32))
    clips = bank().batch(torch.tensor([1]), BLOCKS)
    size = 32  # the smallest picture of the preset: latents of 4 x 4
    denoiser = BlockDenoiser(transformer, config)
    conditions = clips.conditions
    state = denoiser.open(
        width=size, height=size, fps=20, seed=3, text=conditions.text[0, 0], clip=conditions.clip[0],
        reference=conditions.reference[0],
    )  # fmt: skip
    made = []
    for block in range(BLOCKS):
        denoiser.set_prompt(state, conditions.text[0, block], version=block)
        made.append(denoiser.denoise(state, block, conditions.audio[block][0]))

    noise = seeded_noise(3)
    noises = [
        torch.cat([noise(block, step, (16, block_latents(block), 4, 4)) for block in range(BLOCKS)], dim=1)[None]
        for step in range(config.sampling.num_steps)
    ]

    def velocity(latents: torch.Tensor, time: float, hear: bool) -> torch.Tensor:
        return clip_velocity(transformer, latents, torch.tensor([time]), conditions, hear=torch.tensor([hear])).velocity

    rolled = rollout(velocity, noises, config.sampling, train=False)[0]
    expected = torch.cat(made, dim=1)
    assert (rolled - expected).norm() < 1e-4 * expected.norm()


def test_rollouts_go_on_with_another_clip() -> None:
    first, second = (bank().batch(torch.tensor([clip]), BLOCKS).conditions for clip in (0, 1))
    longer = extended(first, second, 6)
    assert isinstance(longer, ClipConditions)
    assert len(longer.audio) == longer.text.shape[1] == 6
    assert torch.equal(longer.audio[3], second.audio[1])
    assert torch.equal(longer.text[:, 4], second.text[:, 2])
    assert torch.equal(longer.audio[5], second.audio[1])


def test_half_of_the_times_are_those_of_inference() -> None:
    steps = (1000.0, 937.5, 833.3333)
    times = draw_times(torch.Generator().manual_seed(0), 4000, steps, 0.5, 3.0)
    on_steps = torch.isin(times, torch.tensor(steps)).float().mean().item()
    assert 0.46 < on_steps < 0.54
    assert times.min() >= 0
    assert times.max() <= 1000
    rest = times[~torch.isin(times, torch.tensor(steps))]
    assert 0.70 < (rest > 500).float().mean() < 0.80  # shift 3 puts three quarters above the middle


def test_noise_levels_by_clip_and_by_block() -> None:
    latents, noise = torch.zeros(1, 16, clip_latents(3), 2, 2), torch.ones(1, 16, clip_latents(3), 2, 2)
    noisy = add_noise(latents, noise, torch.tensor([[1000.0, 500.0, 250.0]]))
    edges = [0, clip_latents(1), clip_latents(2), clip_latents(3)]
    for level, (start, stop) in zip((1.0, 0.5, 0.25), pairwise(edges), strict=True):
        assert (noisy[:, :, start:stop] == level).all()
    assert noise_level(torch.tensor([250.0]), latents).flatten().tolist() == [0.25]
