"""Any number of ranks is one function: two ranks give what one gives, and what the official code gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from liveact_models.config import PRESETS, ConfigError, TransformerConfig
from liveact_models.denoiser import BlockDenoiser
from liveact_models.memory import memory_bytes
from liveact_models.parallel import Fp8Wire, Peers, Wire, heads_of, share
from liveact_models.parallel.ulysses import EXACT, shares
from liveact_models.parity import relative_error
from liveact_models.parity.dit import AUDIO_GUIDANCE, PROMPT_CHANGE_BLOCK, GoldenSession
from liveact_models.session import SessionState
from liveact_models.timeline import block_frames
from liveact_models.transformer import LiveActTransformer
from rank_fixtures import Ranks

GOLDEN = Path(__file__).parent / "golden"
CLOSE = 1e-5
VARIANTS: dict[str, dict[str, Any]] = {
    "renoise": {}, "euler": {"sampler": "euler"}, "euler_edit": {"sampler": "euler"},
    "euler_mean_memory": {"sampler": "euler", "memory": "mean"},
    "renoise_audio_cfg": {"audio_guidance": AUDIO_GUIDANCE},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As many as a rank computes on: sums are split by thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def two() -> Iterator[Ranks]:
    with Ranks(2) as ranks:
        yield ranks


@pytest.fixture(scope="module")
def three() -> Iterator[Ranks]:
    with Ranks(3) as ranks:
        yield ranks


@dataclasses.dataclass
class Made:
    """What a rank has made: latents by block, and its part of the session."""

    latents: list[np.ndarray]
    state: SessionState

    @property
    def memory(self) -> dict[str, torch.Tensor]:
        return self.state.memory


def golden_denoiser(peers: Peers | None, variant: str, wire: Wire = EXACT) -> tuple[GoldenSession, BlockDenoiser]:
    golden = GoldenSession(GOLDEN)
    heads = None if peers is None else share(golden.transformer, peers, wire)
    return golden, BlockDenoiser(golden.transformer, golden.config, golden.sampling(**VARIANTS[variant]), heads)


def performed(peers: Peers | None, variant: str, wire: Wire = EXACT) -> Made:
    """All blocks of a golden variant, by one rank or as one of several."""
    golden, denoiser = golden_denoiser(peers, variant, wire)
    return went_on(golden, denoiser, golden.open(denoiser), golden.blocks, edited=variant == "euler_edit")


def went_on(
    golden: GoldenSession, denoiser: BlockDenoiser, state: SessionState, stop: int, edited: bool = False
) -> Made:
    latents = []
    for block in range(state.block, stop):
        if edited and block == PROMPT_CHANGE_BLOCK:
            denoiser.set_prompt(state, golden.inputs["text_edit"], version=1)
        latents.append(denoiser.denoise(state, block, golden.audio(block), golden.noise).numpy())
    return Made(latents, dataclasses.replace(state, conditioning=None))


def worst(ours: list[np.ndarray], expected: list[np.ndarray]) -> float:
    return max(relative_error(torch.tensor(a), torch.tensor(b)) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_ranks_make_what_one_makes_and_what_the_official_code_makes(two: Ranks, variant: str) -> None:
    alone = performed(None, variant)
    first, second = two.run(performed, variant)
    outputs = GoldenSession(GOLDEN).outputs(variant)
    official = [outputs[f"latent.{block}"].numpy() for block in range(len(alone.latents))]
    assert all(np.array_equal(a, b) for a, b in zip(first.latents, second.latents, strict=True)), "ranks drift apart"
    errors = worst(first.latents, alone.latents), worst(first.latents, official)
    together = SessionState.joined([first.state, second.state])
    memory = max(relative_error(together.memory[name], alone.memory[name]) for name in alone.memory)
    print(f"{variant}: {errors[0]:.1e} from one rank, {errors[1]:.1e} from the official code, memory {memory:.1e}")
    assert max(*errors, memory) <= CLOSE


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model and a picture, sizes that divide by nothing."""

    heads: int
    width: int
    height: int
    dtype: torch.dtype = torch.float32


ODD = Shape(heads=5, width=48, height=80)
"""15 tokens a frame, 90 and 120 a block."""


def odd_denoiser(peers: Peers | None, shape: Shape) -> BlockDenoiser:
    sizes = dataclasses.replace(PRESETS["tiny"].transformer, dim=32 * shape.heads, num_heads=shape.heads, num_layers=2)
    torch.manual_seed(1)
    transformer = LiveActTransformer(sizes)
    for layer in transformer.layers:
        layer.self_attn.memory_proj_k.weight.data.normal_(std=0.5)
    transformer.to(shape.dtype)
    config = dataclasses.replace(PRESETS["tiny"], name="odd", transformer=sizes)
    return BlockDenoiser(transformer, config, None, None if peers is None else share(transformer, peers))


def odd_session(peers: Peers | None, shape: Shape, blocks: int = 4) -> Made:
    denoiser = odd_denoiser(peers, shape)
    model: TransformerConfig = denoiser.config.transformer
    drawn = torch.Generator().manual_seed(2)
    state = denoiser.open(
        width=shape.width, height=shape.height, fps=20, seed=3, text=torch.randn(5, model.text_dim, generator=drawn),
        clip=torch.randn(model.clip_tokens, model.clip_dim, generator=drawn),
        reference=torch.randn(model.out_dim, 14, shape.height // 8, shape.width // 8, generator=drawn),
    )  # fmt: skip
    latents = []
    for block in range(blocks):
        rows = len(block_frames(block)) + 4
        audio = torch.randn(rows, model.audio_blocks, model.audio_channels, generator=drawn)
        latents.append(denoiser.denoise(state, block, audio).numpy())
    return Made(latents, dataclasses.replace(state, conditioning=None))


def test_heads_and_tokens_need_not_divide_nor_frames_end_where_a_rank_does(two: Ranks, three: Ranks) -> None:
    alone = odd_session(None, ODD)
    assert [len(part) for part in shares(6 * 15, 2) + shares(8 * 15, 3)] == [45, 45, 40, 40, 40]
    for ranks in (two, three):
        made = ranks.run(odd_session, ODD)
        assert worst(made[0].latents, alone.latents) <= CLOSE
        joined = SessionState.joined([part.state for part in made])
        assert max(relative_error(joined.memory[name], alone.memory[name]) for name in alone.memory) <= CLOSE
    # 96 and 128 tokens, 16 a frame, on three ranks: 42, 43 and 43.
    uneven = Shape(heads=3, width=64, height=64)
    assert [len(part) for part in shares(8 * 16, 3)] == [42, 43, 43]
    assert worst(three.run(odd_session, uneven)[2].latents, odd_session(None, uneven).latents) <= CLOSE


def test_a_rank_holds_its_heads_memory_and_no_more(two: Ranks) -> None:
    made = two.run(odd_session, ODD, 1)
    config = odd_denoiser(None, ODD).config
    assert [part.state.heads for part in made] == [range(2), range(2, 5)]
    for part in made:
        expected = memory_bytes(config, ODD.width, ODD.height, ODD.dtype, heads=len(part.state.heads))
        assert part.state.memory_bytes == expected
    whole = memory_bytes(config, ODD.width, ODD.height, ODD.dtype)
    assert sum(part.state.memory_bytes for part in made) == whole


# Exports


def adopted(peers: Peers | None, exported: bytes, stop: int) -> Made:
    golden, denoiser = golden_denoiser(peers, "renoise")
    return went_on(golden, denoiser, denoiser.adopt(exported), stop)


def first_blocks(peers: Peers | None, stop: int) -> Made:
    golden, denoiser = golden_denoiser(peers, "renoise_audio_cfg")
    return went_on(golden, denoiser, golden.open(denoiser), stop)


def exported_by(made: list[Made]) -> bytes:
    return SessionState.joined([part.state for part in made]).export()


def test_an_export_goes_from_one_rank_to_two_and_back_as_the_same_bytes(two: Ranks) -> None:
    of_one = first_blocks(None, 2).state.export()
    assert exported_by(two.run(adopted, of_one, 2)) == of_one
    of_two = exported_by(two.run(first_blocks, 2))
    assert adopted(None, of_two, 2).state.export() == of_two


def test_a_session_goes_on_exactly_wherever_it_is_adopted(two: Ranks) -> None:
    whole = two.run(first_blocks, 4)
    at_two = exported_by(two.run(first_blocks, 2))
    # Two ranks that adopt their own export are as if nothing had been.
    again = two.run(adopted, at_two, 4)
    assert all(np.array_equal(a, b) for a, b in zip(again[0].latents, whole[0].latents[2:], strict=True))
    assert exported_by(again) == exported_by(whole)
    # One block by one rank in between, and back.
    between = adopted(None, at_two, 3)
    after = two.run(adopted, between.state.export(), 4)
    assert worst([*between.latents, *after[0].latents], whole[0].latents[2:]) <= CLOSE


def test_a_part_of_a_session_is_not_exported_and_parts_of_two_blocks_are_not_joined(two: Ranks) -> None:
    parts = [made.state for made in two.run(first_blocks, 1)]
    with pytest.raises(ValueError, match="exported is a whole session"):
        parts[0].export()
    for wrong in ([parts[1], parts[0]], parts[1:], [parts[0], dataclasses.replace(parts[1], block=2)]):
        with pytest.raises(ValueError, match="follow one another, before one block"):
            SessionState.joined(wrong)


# fp8


def test_fp8_is_off_by_a_sixteenth_of_a_number_at_most_and_smaller_than_bfloat16() -> None:
    wire, generator = Fp8Wire(), torch.Generator().manual_seed(1)
    shape = (3, 50, 4, 22)
    spread = 10.0 ** torch.randint(-6, 6, (3, 50, 4, 1), generator=generator)
    tensor = torch.randn(shape, generator=generator) * spread
    tensor[0, 0] = 0.0
    packed = wire.pack(tensor)
    assert len(packed) == wire.size(shape, torch.float32) == tensor.numel() + 4 * 3 * 50 * 4
    assert (
        len(packed)
        < wire.size((*shape[:-1], 128), torch.bfloat16)
        < 0.52 * EXACT.size((*shape[:-1], 128), torch.bfloat16)
    )
    error = (wire.unpack(packed, shape, torch.float32) - tensor).abs()
    bound = torch.maximum(tensor.abs() / 16, tensor.abs().amax(-1, keepdim=True) / 448 * 2**-10)
    assert (error <= bound * (1 + 1e-5)).all()
    assert error.norm() / tensor.norm() < 0.04
    assert (error > 0).any()


def test_fp8_between_ranks_stays_near_the_exact_latents_and_is_one_function_too(two: Ranks, three: Ranks) -> None:
    alone = performed(None, "renoise")
    made = [ranks.run(performed, "renoise", Fp8Wire())[0] for ranks in (two, three)]
    errors = [worst(part.latents, alone.latents) for part in made]
    between = worst(made[0].latents, made[1].latents)
    print(f"fp8: {errors[0]:.1e} and {errors[1]:.1e} from exact, {between:.1e} between two and three ranks")
    assert 1e-4 < max(errors) < 0.05
    assert between < max(errors)


# What is refused


@pytest.mark.parametrize(("heads", "ranks"), [(3, 4), (40, 41), (4, 0)])
def test_ranks_without_a_head_are_refused_naming_both_numbers(heads: int, ranks: int) -> None:
    with pytest.raises(
        ConfigError, match=f"{ranks} ranks cannot share {heads} attention heads: accepted are 1 to {heads}"
    ):
        heads_of(heads, ranks)


def test_a_session_of_other_heads_is_refused(two: Ranks) -> None:
    part = two.run(first_blocks, 1)[0].state
    golden, denoiser = golden_denoiser(None, "renoise")
    with pytest.raises(ValueError, match="heads are"):
        denoiser.denoise(part, 1, golden.audio(1))


def stuck(peers: Peers) -> str:
    """Rank 1 does not come to the exchange."""
    if peers.rank == 1:
        return "away"
    part = torch.zeros(4, dtype=torch.uint8)
    try:
        peers.exchange([part, part], [4, 4])
    except RuntimeError as error:
        return f"given up: {type(error).__name__}"
    return "exchanged"


def test_an_exchange_that_a_rank_does_not_come_to_ends_with_the_groups_timeout() -> None:
    with Ranks(2, timeout_s=2) as ranks:
        assert ranks.run(stuck)[0].startswith("given up")
