"""Layers in host memory: fewer bytes on the device, and the same numbers out."""

from __future__ import annotations

import pytest
import torch

from liveact_models.checkpoint import open_checkpoint
from liveact_models.config import ConfigError
from liveact_models.denoiser import BlockDenoiser
from liveact_models.engine import Engine
from liveact_models.offload import host_bytes, host_tensors, offload, offloaded_layers
from liveact_models.timeline import AUDIO_REACH, block_frames
from liveact_models.transformer import LiveActTransformer
from liveact_services.denoiser.local_rank import LocalRank
from liveact_services.denoiser.warm_up import SESSION, warm_up
from liveact_services.placement.pins import ReplicaGone

CHECKPOINT = open_checkpoint("untrained", "tiny")
CONFIG = CHECKPOINT.config


def latents(transformer: LiveActTransformer, prompts: tuple[int, ...] = (1, 2)) -> list[torch.Tensor]:
    """A block for each prompt, of one session."""
    draw, model = torch.Generator().manual_seed(3), CONFIG.transformer
    clip, reference = (
        torch.randn(model.clip_tokens, model.clip_dim, generator=draw),
        torch.randn(16, 14, 6, 4, generator=draw),
    )
    texts = {prompt: torch.randn(5 + prompt, model.text_dim, generator=draw) for prompt in sorted(set(prompts))}
    denoiser = BlockDenoiser(transformer, CONFIG)
    state = denoiser.open(
        width=32, height=48, fps=20, seed=9, text=texts[prompts[0]], clip=clip, reference=reference
    )  # fmt: skip
    made = []
    for block, prompt in enumerate(prompts):
        if block and prompt != prompts[block - 1]:
            denoiser.set_prompt(state, texts[prompt], prompt)
        frames = len(block_frames(block)) + 2 * AUDIO_REACH
        audio = torch.randn(frames, model.audio_blocks, model.audio_channels, generator=draw)
        made.append(denoiser.denoise(state, block, audio))
    return made


@pytest.fixture(scope="module")
def resident() -> list[torch.Tensor]:
    return latents(CHECKPOINT.load_transformer())


@pytest.mark.parametrize("count", [4, pytest.param(6, marks=pytest.mark.slow)])
def test_the_same_latents_come_out(count: int, resident: list[torch.Tensor]) -> None:
    streamed = CHECKPOINT.load_transformer(offload_blocks=count)
    for ours, theirs in zip(latents(streamed), resident, strict=True):
        assert torch.equal(ours, theirs)
    # A second session on the same model, and a first block after a later one.
    for ours, theirs in zip(latents(streamed), resident, strict=True):
        assert torch.equal(ours, theirs)


def test_a_model_that_is_loaded_already_is_offloaded_as_well(resident: list[torch.Tensor]) -> None:
    transformer = CHECKPOINT.load_transformer()
    offload(transformer, 5, torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(latents(transformer), resident, strict=True))


def test_a_pass_that_is_given_up_leaves_the_next_one_right(resident: list[torch.Tensor]) -> None:
    transformer = CHECKPOINT.load_transformer(offload_blocks=4)
    broken = transformer.layers[3].register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        latents(transformer)
    broken.remove()
    assert all(torch.equal(a, b) for a, b in zip(latents(transformer), resident, strict=True))


def test_offloaded_layers_share_two_layers_room() -> None:
    """The CPU stands for the device: what is reachable from the model's layers is what a device would hold."""
    count = 5
    whole, streamed = CHECKPOINT.load_transformer(), CHECKPOINT.load_transformer(offload_blocks=count)

    def held(transformer: LiveActTransformer) -> int:
        places = {t.data_ptr(): t.nbytes for n, t in transformer.named_parameters() if not _fetched(n, count)}
        return sum(places.values())

    def _fetched(name: str, count: int) -> bool:
        indices = [f"blocks.{index}." for index in offloaded_layers(6, count)]
        return name.startswith(
            tuple(f"{i}cross_attn.{p}." for i in indices for p in ("k", "v", "k_img", "v_img"))
        ) and (name.endswith("weight"))

    latents(streamed)
    resident = sum(tensor.nbytes for tensor in whole.parameters())
    buffers = {t.data_ptr() for index in offloaded_layers(6, count) for t in [streamed.layers[index].ffn[0].weight]}
    assert len(buffers) == 2
    assert resident - held(streamed) == host_bytes(whole, count)
    assert host_bytes(whole, count) > 0


def test_layers_are_spread_evenly_and_numbers_that_save_nothing_refused() -> None:
    assert offloaded_layers(40, 4) == [5, 15, 25, 35]
    assert offloaded_layers(6, 6) == [0, 1, 2, 3, 4, 5]
    assert offloaded_layers(6, 0) == []
    for count in (1, 2, 7):
        with pytest.raises(ConfigError, match="accepted are 0 \\(none\\) and 3 to 6"):
            offloaded_layers(6, count)


def test_only_matrices_leave_the_device() -> None:
    names = host_tensors(CHECKPOINT.load_transformer(), 3)
    assert len(names) == 3 * 15
    assert all(name.endswith(".weight") and "memory_proj" not in name and "norm" not in name for name in names)


def test_a_denoiser_warms_up_on_blocks_of_a_session_that_it_forgets() -> None:
    rank = LocalRank(CHECKPOINT, CONFIG.sampling, torch.device("cpu"), Engine(), offload_blocks=4)
    assert warm_up(rank, CONFIG) > 0
    with pytest.raises(ReplicaGone):
        rank.position(SESSION)
