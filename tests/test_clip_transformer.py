"""Training's pass over whole clips is the function inference computes block by block with its caches."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from liveact_models.block_run import reference_condition
from liveact_models.checkpoint.weights import untrained
from liveact_models.config import TransformerConfig
from liveact_models.memory import next_cache
from liveact_models.timeline import AUDIO_REACH, block_frames, block_latents, block_slots
from liveact_models.training.clip_transformer import ClipConditions, clip_latents, clip_velocity
from liveact_models.transformer import LiveActTransformer, gather_audio_windows

CONFIG = TransformerConfig(
    dim=48, ffn_dim=64, num_layers=2, num_heads=2, freq_dim=16, text_len=6, text_dim=16, clip_dim=16, clip_tokens=5,
    audio_blocks=2, audio_channels=8, intermediate_dim=16, output_dim=16, context_tokens=4,
)  # fmt: skip
BLOCKS = 4
HEIGHT, WIDTH = 6, 4


@pytest.fixture(scope="module")
def model() -> LiveActTransformer:
    model = LiveActTransformer(CONFIG)
    model.load_state_dict(untrained(model, "clips", device="cpu", dtype=torch.float32))
    for layer in model.layers:  # compression that is no mean, so that a wrong tap shows
        layer.self_attn.memory_proj_k.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    return model.eval()


@pytest.fixture(scope="module")
def told() -> ClipConditions:
    generator = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return ClipConditions(
        reference=draw(2, 16, 14, HEIGHT, WIDTH),
        text=draw(2, BLOCKS, CONFIG.text_len, CONFIG.text_dim),
        clip=draw(2, CONFIG.clip_tokens, CONFIG.clip_dim),
        audio=[
            draw(2, len(block_frames(b)) + 2 * AUDIO_REACH, CONFIG.audio_blocks, CONFIG.audio_channels)
            for b in range(BLOCKS)
        ],
    )


@pytest.fixture(scope="module")
def noisy() -> torch.Tensor:
    return torch.randn(2, 16, clip_latents(BLOCKS), HEIGHT, WIDTH, generator=torch.Generator().manual_seed(3))


def block_by_block(
    model: LiveActTransformer, told: ClipConditions, noisy: torch.Tensor, clip: int, times: list[float], hear: bool,
    memory: str = "conv",
) -> torch.Tensor:  # fmt: skip
    """What the denoiser does at one step, block after block."""
    weights = {
        "conv": [layer.self_attn.memory_proj_k.weight for layer in model.layers],
        "mean": [torch.full_like(layer.self_attn.memory_proj_k.weight, 0.2) for layer in model.layers],
        "none": [None for _ in model.layers],
    }[memory]
    context, velocities, start = None, [], 0
    for block in range(BLOCKS):
        latents = noisy[clip, :, start : start + block_latents(block)]
        start += block_latents(block)
        features = told.audio[block][clip]
        windows = gather_audio_windows(features, AUDIO_REACH, len(features) - AUDIO_REACH)
        audio = model.audio_tokens(windows, block == 0) if hear else None
        velocity, fresh = model(
            latents,
            reference_condition(told.reference[clip], block),
            times[block],
            model.condition(told.text[clip, block], told.clip[clip]),
            audio,
            context,
            block_slots(block),
        )
        context = next_cache(context, fresh, weights)
        velocities.append(velocity)
    return torch.cat(velocities, dim=1)


@torch.no_grad()
@pytest.mark.parametrize("memory", ["conv", "mean", "none"])
@pytest.mark.parametrize("form", ["blocks", "mask"])
def test_a_clip_at_once_is_inference_block_by_block(model, told, noisy, form, memory) -> None:
    times = torch.tensor([937.5, 1000.0])
    hear = torch.tensor([True, False])
    at_once = clip_velocity(model, noisy, times, told, hear=hear, form=form, memory=memory).velocity
    for clip in range(2):
        expected = block_by_block(
            model, told, noisy, clip, [times[clip].item()] * BLOCKS, bool(hear[clip]), memory=memory
        )
        assert (at_once[clip] - expected).norm() <= 1e-5 * expected.norm()


@torch.no_grad()
def test_a_time_of_its_own_for_every_block(model, told, noisy) -> None:
    times = torch.tensor([[900.0, 500.0, 1000.0, 20.0], [10.0, 20.0, 30.0, 40.0]])
    at_once = clip_velocity(model, noisy, times, told).velocity
    for clip in range(2):
        expected = block_by_block(model, told, noisy, clip, times[clip].tolist(), True)
        assert (at_once[clip] - expected).norm() <= 1e-5 * expected.norm()


@torch.no_grad()
def test_fewer_blocks_are_the_beginning_of_more(model, told, noisy) -> None:
    times = torch.tensor([700.0, 800.0])
    whole = clip_velocity(model, noisy, times, told).velocity
    part = clip_velocity(model, noisy[:, :, : clip_latents(2)], times, told.blocks(2)).velocity
    assert torch.allclose(part, whole[:, :, : clip_latents(2)], atol=1e-5)


def test_the_compression_learns(model, told, noisy) -> None:
    weight = model.layers[0].self_attn.memory_proj_k.weight
    clip_velocity(model, noisy, torch.tensor([700.0, 800.0]), told).velocity.square().mean().backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


@torch.no_grad()
def test_silenced_clips_hear_nothing(model, told, noisy) -> None:
    times = torch.tensor([700.0, 700.0])
    drop = torch.tensor([True, False])
    silenced = told.silent(drop)
    zeros = dataclasses.replace(told, audio=[torch.zeros_like(part) for part in told.audio])
    mixed = clip_velocity(model, noisy, times, silenced).velocity
    assert torch.allclose(mixed[0], clip_velocity(model, noisy, times, zeros).velocity[0], atol=1e-5)
    assert torch.allclose(mixed[1], clip_velocity(model, noisy, times, told).velocity[1], atol=1e-5)
