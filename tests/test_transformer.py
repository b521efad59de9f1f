"""The transformer computes what the official code computes, and bears the released names at the released size."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from liveact_models.config import preset
from liveact_models.denoiser import BlockDenoiser
from liveact_models.memory import compress, remember
from liveact_models.parity import THRESHOLD, relative_error
from liveact_models.parity.dit import GoldenSession, rows
from liveact_models.timeline import WINDOW_SLOTS
from liveact_models.transformer import LiveActTransformer, attend, gather_audio_windows
from liveact_models.transformer.rope import rope_table, rotate

GOLDEN = Path(__file__).parent / "golden"
VARIANTS = ("renoise", "euler", "euler_edit", "euler_mean_memory", "renoise_audio_cfg")


def golden_names(file: str) -> dict[str, list[int]]:
    with safe_open(GOLDEN / f"{file}.safetensors", "pt") as tensors:
        return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118


def test_every_golden_output_is_reproduced():
    found = rows(GOLDEN)
    assert {row.what: row.error for row in found if not row.error <= THRESHOLD} == {}
    for variant in VARIANTS:
        compared = {row.what.split(" ")[0] for row in found if row.variant == variant}
        assert compared == set(golden_names(f"dit.{variant}"))


def test_both_parts_of_each_golden_cache_are_compared():
    whats = {row.what for row in rows(GOLDEN) if row.what.startswith("kv.2.")}
    layers = ("step1.layer0.k", "step1.layer2.v")
    assert whats == {f"kv.2.{layer} slots {slots}" for layer in layers for slots in ("0-5", "6-13")}


@pytest.mark.parametrize(
    "weight",
    [
        "blocks.1.self_attn.memory_proj_k.weight",
        "blocks.2.cross_attn.norm_k_img.weight",
        "blocks.0.audio_cross_attn.kv_linear.weight",
        "audio_proj.proj1_vf.weight",
        "head.modulation",
    ],
)
def test_parity_notices_a_weight_that_is_off_by_a_hundredth(weight):
    golden = GoldenSession(GOLDEN)
    with torch.no_grad():
        golden.transformer.get_parameter(weight).mul_(1.01)
    denoiser = BlockDenoiser(golden.transformer, golden.config, golden.sampling(sampler="euler"))
    state, expected = golden.open(denoiser), golden.outputs("euler")
    errors = [
        relative_error(denoiser.denoise(state, block, golden.audio(block), golden.noise), expected[f"latent.{block}"])
        for block in range(golden.blocks)
    ]
    assert max(errors) > THRESHOLD


def test_released_size_bears_the_golden_names_and_the_released_shapes():
    config = preset("soulx-liveact-18b").transformer
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in LiveActTransformer(config).state_dict().items()}

    def pattern(names):
        return {re.sub(r"^blocks\.\d+\.", "blocks.N.", name) for name in names}

    assert pattern(shapes) == pattern(golden_names("dit.weights"))
    per_layer = sum(name.startswith("blocks.0.") for name in shapes)
    assert sum(name.startswith("blocks.") for name in shapes) == 40 * per_layer
    expected = {
        "patch_embedding.weight": (5120, 36, 1, 2, 2),
        "text_embedding.0.weight": (5120, 4096),
        "time_projection.1.weight": (6 * 5120, 5120),
        "img_emb.proj.1.weight": (1280, 1280),
        "audio_proj.proj1.weight": (512, 5 * 12 * 768),
        "audio_proj.proj1_vf.weight": (512, 8 * 12 * 768),
        "audio_proj.proj3.weight": (32 * 768, 512),
        "blocks.39.audio_cross_attn.kv_linear.weight": (2 * 5120, 768),
        "blocks.39.ffn.0.weight": (13824, 5120),
        "blocks.39.modulation": (1, 6, 5120),
        "blocks.39.self_attn.memory_proj_v.weight": (5120, 1, 5),
        "head.head.weight": (64, 5120),
    }
    assert {name: shapes[name] for name in expected} == expected
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 18_884_094_784


def test_rope_is_the_complex_product_at_the_slots_position():
    height, width, head_dim, device = 2, 3, 16, torch.device("cpu")
    x = torch.randn(WINDOW_SLOTS * height * width, 4, head_dim)
    split = (head_dim - 4 * (head_dim // 6), 2 * (head_dim // 6), 2 * (head_dim // 6))
    expected = torch.empty_like(x)
    for token in range(len(x)):
        slot, row, column = token // (height * width), token // width % height, token % width
        angles = torch.cat(
            [
                position * 10000.0 ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
                for position, dim in zip((slot, row, column), split, strict=True)
            ]
        )
        turned = torch.view_as_complex(x[token].double().unflatten(-1, (-1, 2))) * torch.polar(
            torch.ones_like(angles), angles
        )
        expected[token] = torch.view_as_real(turned).flatten(-2)
    torch.testing.assert_close(rotate(x, rope_table(head_dim, height, width, device)), expected, rtol=0, atol=2e-6)


def test_rope_table_made_in_inference_serves_training_afterwards():
    with torch.inference_mode():
        table = rope_table(22, 1, 1, torch.device("cpu"))
    x = torch.randn(WINDOW_SLOTS, 1, 22, requires_grad=True)
    rotate(x, table).sum().backward()
    assert x.grad is not None


def test_attend_is_softmax_attention_per_head():
    q, k, v = torch.randn(5, 2, 8), torch.randn(7, 2, 8), torch.randn(7, 2, 8)
    weights = torch.softmax(torch.einsum("qhd,khd->hqk", q, k) / 8**0.5, dim=-1)
    torch.testing.assert_close(attend(q, k, v), torch.einsum("hqk,khd->qhd", weights, v))


def test_audio_windows_are_clamped_at_both_ends():
    embedding = torch.arange(6.0).view(6, 1, 1)
    windows = gather_audio_windows(embedding, -1, 7)[..., 0, 0]
    assert windows[0].tolist() == [0, 0, 0, 0, 1]
    assert windows[3].tolist() == [0, 1, 2, 3, 4]
    assert windows[7].tolist() == [4, 5, 5, 5, 5]
    assert windows.shape == (8, 5)


def test_memory_keeps_the_reference_compresses_the_middle_and_moves_the_newest():
    tokens, heads, head_dim = 10, 2, 3
    slots = torch.randn(14, tokens, heads, head_dim)
    weight = torch.randn(heads * head_dim, 1, 5)
    kept = remember(slots[:6].flatten(0, 1), slots[6:].flatten(0, 1), weight).unflatten(0, (6, tokens))
    assert torch.equal(kept[:2], slots[:2])
    assert torch.equal(kept[4:], slots[12:])
    for index, frames in ((2, slots[2:7]), (3, slots[7:12])):
        # Five consecutive tokens of the flattened axis make one.
        groups = frames.reshape(tokens, 5, heads * head_dim)
        expected = torch.einsum("tkc,ck->tc", groups, weight[:, 0]).view(tokens, heads, head_dim)
        torch.testing.assert_close(kept[index], expected)
        assert torch.equal(kept[index], compress(frames, weight)[0])


def test_bfloat16_stays_close_to_float32_and_keeps_its_memory_in_bfloat16():
    golden = GoldenSession(GOLDEN)
    golden.transformer.to(torch.bfloat16)
    denoiser = BlockDenoiser(golden.transformer, golden.config, golden.sampling())
    state, expected = golden.open(denoiser), golden.outputs("renoise")
    for block in range(3):
        latents = denoiser.denoise(state, block, golden.audio(block), golden.noise)
        assert latents.dtype == torch.float32
        assert relative_error(latents, expected[f"latent.{block}"]) < 0.03
    assert {tensor.dtype for tensor in state.memory.values()} == {torch.bfloat16}


@pytest.mark.parametrize(("slots", "with_context"), [(range(6, 14), False), (range(8), True), (range(5, 13), True)])
def test_slots_that_do_not_fit_the_context_are_refused(slots, with_context):
    golden = GoldenSession(GOLDEN)
    context = torch.zeros(3, 2, 6 * 16, 4, 16) if with_context else None
    latent, reference = torch.zeros(16, 8, 8, 8), torch.zeros(20, 8, 8, 8)
    conditioning = golden.transformer.condition(golden.inputs["text"], golden.inputs["clip"][0])
    with pytest.raises(ValueError, match="accepted are"):
        golden.transformer(latent, reference, 1000.0, conditioning, None, context, slots)
