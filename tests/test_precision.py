"""fp8: linears that compute what a device computes, a memory in half the bytes, and a measurement of who cannot bear it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from liveact_models.checkpoint import open_checkpoint
from liveact_models.config import ConfigError
from liveact_models.denoiser import BlockDenoiser
from liveact_models.engine import Engine, Precision, choose, empty_transformer, load_transformer
from liveact_models.memory import cache_names, memory_bytes
from liveact_models.parity import relative_error
from liveact_models.parity.dit import GoldenSession
from liveact_models.precision import (
    FP8,
    PRODUCTS,
    Calibrating,
    Calibration,
    Fp8Linear,
    choose_product,
    dequantise,
    linears_of,
    quantise,
    to_fp8,
)
from liveact_models.session import SessionState

GOLDEN = Path(__file__).parent / "golden"
CPU = torch.device("cpu")
EMULATED = PRODUCTS["emulated"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "inner", "outer"), [(1, 16, 16), (7, 48, 80), (33, 208, 16)])
def test_the_emulation_is_the_scaled_product_of_torch(rows: int, inner: int, outer: int, dtype: torch.dtype) -> None:
    linear = nn.Linear(inner, outer).to(dtype)
    x = (torch.randn(2, rows, inner) * 10.0 ** torch.randint(-3, 3, (2, rows, 1))).to(dtype)
    with torch.inference_mode():
        emulated, scaled = (Fp8Linear(linear, PRODUCTS[name])(x) for name in ("emulated", "scaled-mm"))
        exact = linear(x)
    assert emulated.dtype == scaled.dtype == dtype
    assert relative_error(emulated.float(), scaled.float()) < (1e-6 if dtype == torch.float32 else 5e-3)
    assert 1e-3 < relative_error(emulated.float(), exact.float()) < 0.06


def test_rows_and_channels_have_scales_of_their_own() -> None:
    linear, x = nn.Linear(32, 16, bias=False), torch.randn(5, 32)
    rows, channels = 2.0 ** torch.arange(-40, 10, 10).view(5, 1), 2.0 ** torch.arange(-8, 8).view(16, 1)
    with torch.no_grad():
        plain = Fp8Linear(linear, EMULATED)(x)
        linear.weight.mul_(channels)
        assert torch.equal(Fp8Linear(linear, EMULATED)(x * rows), plain * rows * channels.T)


def test_zeros_and_the_largest_number_come_through() -> None:
    x = torch.tensor([[0.0, 0.0], [448.0, -1.0], [3e38, 1e30]])
    assert torch.equal(dequantise(quantise(x), torch.float32)[:2], x[:2])
    assert dequantise(quantise(x), torch.float32).isfinite().all()


def test_the_product_on_a_cpu_is_the_emulation_and_the_others_say_why_not() -> None:
    choice = choose_product(CPU, torch.bfloat16)
    assert choice.describe() == "emulated (transformer-engine: needs a CUDA device; scaled-mm: needs a CUDA device)"
    assert PRODUCTS["scaled-mm"].problem(CPU, torch.float32) is None


# The calibration


def calibrated(golden: GoldenSession, spoil: str, limit: float = 0.05, most: float = 0.5) -> Calibration:
    """Two blocks, with one linear that e4m3 cannot bear: an input channel far above the others that its weights pass over."""
    linear = golden.transformer.get_submodule(spoil)
    with torch.no_grad():
        linear.weight[:, 0] = 0.0  # type: ignore[index,operator]

    def loud(module: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (torch.cat((torch.full_like(args[0][..., :1], 1e6), args[0][..., 1:]), dim=-1),)

    hook = linear.register_forward_pre_hook(loud)
    denoiser = BlockDenoiser(golden.transformer, golden.config, golden.sampling())
    calibrating = Calibrating(golden.transformer)
    with calibrating.watching():
        state = golden.open(denoiser)
        for block in range(2):
            denoiser.denoise(state, block, golden.audio(block), golden.noise)
    hook.remove()
    return calibrating.result(golden.config, 2, limit, most)


def test_a_calibration_measures_every_linear_and_keeps_the_one_that_cannot_bear_fp8() -> None:
    golden, spoilt = GoldenSession(GOLDEN), "blocks.1.self_attn.v"
    found = calibrated(golden, spoilt)
    assert set(found.errors) == {name for name, _ in linears_of(golden.transformer)}
    assert found.kept[0] == spoilt
    assert found.errors[spoilt] > 0.5
    others = [error for name, error in found.errors.items() if name not in found.kept]
    assert 0.005 < min(others) < max(others) <= 0.05
    assert calibrated(GoldenSession(GOLDEN), spoilt, limit=0.0, most=0.1).kept[0] == spoilt
    replaced = to_fp8(golden.transformer, EMULATED, found.kept)
    assert isinstance(golden.transformer.get_submodule(spoilt), nn.Linear)
    assert len(replaced) == len(found.errors) - len(found.kept)
    assert all(isinstance(golden.transformer.get_submodule(name), Fp8Linear) for name in replaced)


def test_a_calibration_is_read_beside_the_weights_and_refused_when_damaged_or_of_another_model(tmp_path: Path) -> None:
    config = GoldenSession(GOLDEN).config
    found = Calibration("golden", config.fingerprint(), {"a": 0.1, "b": 0.01}, ("a",), 3, "2026-11-23", "here", "2.13")
    assert Calibration.read(tmp_path, config) is None
    path = found.save(tmp_path)
    assert Calibration.read(tmp_path, config) == found
    with pytest.raises(ConfigError, match="measured on model golden"):
        Calibration.read(tmp_path, dataclasses.replace(config, fps=7))
    damaged = json.loads(path.read_text())
    for change in ({"version": 2}, {"kept": ["c"]}, {"errors": 3}):
        path.write_text(json.dumps({**damaged, **change}))
        with pytest.raises(ConfigError, match="write it with liveact calibrate"):
            Calibration.read(tmp_path, config)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
@pytest.mark.parametrize("where", ["shipped", "untrained"])
def test_an_empty_transformer_has_the_types_and_sizes_of_a_loaded_one(where: str, precision: Precision) -> None:
    checkpoint, engine = open_checkpoint(where, "tiny"), Engine(precision)
    loaded, _ = load_transformer(checkpoint, engine, CPU)
    empty = empty_transformer(checkpoint, engine)
    told, found = ({name: (t.shape, t.dtype) for name, t in module.state_dict().items()} for module in (empty, loaded))
    assert told == found
    assert all(tensor.is_meta for tensor in empty.state_dict().values())


def test_the_shipped_weights_are_calibrated_and_load_in_fp8() -> None:
    checkpoint = open_checkpoint("shipped")
    found = Calibration.read(checkpoint.folder, checkpoint.config)
    assert found is not None
    transformer, choices = load_transformer(checkpoint, Engine("fp8"), CPU)
    assert choices.calibrated
    assert choices.fp8_layers + len(found.kept) == len(found.errors)
    assert all(isinstance(transformer.get_submodule(name), nn.Linear) for name in found.kept)
    assert f"{choices.fp8_layers} linears, {len(found.kept)} kept in bf16" in choices.describe()
    _, bare = load_transformer(open_checkpoint("untrained"), Engine("fp8"), CPU)
    assert "not calibrated" in bare.describe()
    assert choose(Engine("fp8"), checkpoint.config, CPU).product is not None


def test_a_model_in_fp8_stays_near_its_golden_latents() -> None:
    golden = GoldenSession(GOLDEN)
    to_fp8(golden.transformer, EMULATED)
    denoiser = BlockDenoiser(golden.transformer, golden.config, golden.sampling())
    state, expected = golden.open(denoiser), golden.outputs("renoise")
    errors = [
        relative_error(denoiser.denoise(state, block, golden.audio(block), golden.noise), expected[f"latent.{block}"])
        for block in range(3)
    ]
    print(f"fp8 from the official float32: {errors}")
    assert 1e-3 < max(errors) < 0.1


# The memory in fp8


def went(golden: GoldenSession, denoiser: BlockDenoiser, state: SessionState, stop: int) -> list[torch.Tensor]:
    return [denoiser.denoise(state, block, golden.audio(block), golden.noise) for block in range(state.block, stop)]


def test_a_memory_in_fp8_is_a_quarter_of_float32_and_goes_on_exactly_where_it_is_adopted() -> None:
    golden = GoldenSession(GOLDEN)
    denoiser = BlockDenoiser(golden.transformer, golden.config, golden.sampling(), cache="fp8")
    state = golden.open(denoiser)
    went(golden, denoiser, state, 3)
    width, height = golden.size
    assert state.memory_bytes == memory_bytes(golden.config, width, height, FP8)
    assert state.memory_dtype == FP8
    names = cache_names(state.sampling)
    assert set(state.memory) == {*names, *(f"{name}.scale" for name in names)}
    exported = state.export()
    adopted = denoiser.adopt(exported)
    assert adopted.export() == exported
    ours, theirs = went(golden, denoiser, state, 5), went(golden, denoiser, adopted, 5)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    expected = golden.outputs("renoise")
    errors = [relative_error(latents, expected[f"latent.{3 + index}"]) for index, latents in enumerate(ours)]
    print(f"memory in fp8, from the official float32: {errors}")
    assert 1e-5 < max(errors) < 0.1


def test_the_reference_frames_keep_their_bytes_in_fp8() -> None:
    golden = GoldenSession(GOLDEN)
    denoiser = BlockDenoiser(golden.transformer, golden.config, golden.sampling(), cache="fp8")
    state = golden.open(denoiser)
    went(golden, denoiser, state, 1)
    tokens = 2 * state.memory["step0"].shape[2] // 6
    first = {name: kept[:, :, :tokens].clone() for name, kept in state.memory.items()}
    went(golden, denoiser, state, 4)
    for name, kept in state.memory.items():
        assert torch.equal(kept[:, :, :tokens].view(torch.uint8), first[name].view(torch.uint8)), name


def test_a_session_is_not_continued_in_another_form_of_memory() -> None:
    golden = GoldenSession(GOLDEN)
    exact, fp8 = (
        BlockDenoiser(golden.transformer, golden.config, golden.sampling(), cache=form)  # type: ignore[arg-type]
        for form in ("exact", "fp8")
    )
    state = golden.open(fp8)
    went(golden, fp8, state, 1)
    with pytest.raises(ValueError, match=r"this model continues torch\.float32"):
        exact.adopt(state.export())
    parts = [state.part(range(1)), state.part(range(1, 4))]
    assert SessionState.joined(parts).export() == state.export()
