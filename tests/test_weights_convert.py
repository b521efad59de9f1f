"""Weights in eight bits: written tensor by tensor, gone on with after a kill, loaded as what they stand for."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from liveact_models import config as sizes
from liveact_models.checkpoint import CheckpointError, open_checkpoint
from liveact_models.checkpoint.inspect import empty_module, inspect
from liveact_models.checkpoint.layouts import shipped_folder
from liveact_models.precision.fp8 import FP8, Quantised, dequantise, quantise
from liveact_models.transformer import LiveActTransformer
from liveact_models.weights import WeightsError
from liveact_models.weights.convert import STATE, convert_fp8, quantised_names
from liveact_models.weights.manifest import Manifest
from liveact_models.weights.verify import verify

SMALL = 2_000_000
"""Bytes a shard: the shipped transformer takes three."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    # Without the calibration, which keeps some matrices as they are.
    return Path(shutil.copytree(shipped_folder("tiny"), folder, ignore=shutil.ignore_patterns("fp8.json")))


@pytest.fixture(scope="module")
def converted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("fp8") / "tiny"
    convert_fp8(source, target, "tiny", shard_bytes=SMALL)
    return target


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("transformer-*-of-*.safetensors"))


@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (192, 64)])
def test_eight_bits_keep_three_binary_digits_of_every_value(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * torch.logspace(-6, 3, shape[0])[:, None]
    matrix, scale = quantise(weight)
    assert (matrix.dtype, scale.dtype, scale.shape) == (FP8, torch.float32, (shape[0], 1))
    error = (dequantise(Quantised(matrix, scale), torch.float32) - weight).abs()
    # Half a step of four significant bits, or of the smallest value of a row's range.
    assert (error <= torch.maximum(weight.abs() / 16, scale * 2**-10)).all()


def test_a_row_of_zeros_stays_zero() -> None:
    matrix, scale = quantise(torch.zeros(2, 3))
    assert torch.equal(dequantise(Quantised(matrix, scale), torch.float32), torch.zeros(2, 3))


def test_the_layers_matrices_are_stored_in_eight_bits_and_nothing_else(source: Path, converted: Path) -> None:
    before = load_file(source / "transformer.safetensors")
    after: dict[str, torch.Tensor] = {}
    for shard in shards(converted):
        after |= load_file(shard)
        assert shard.stat().st_size < SMALL + 100_000
    matrices = quantised_names(empty_module(open_checkpoint(source), "transformer"))
    assert len(matrices) == 15 * sizes.PRESETS["tiny"].transformer.num_layers
    for name, tensor in before.items():
        if name in matrices:
            matrix, scale = quantise(tensor)
            assert torch.equal(after.pop(name).view(torch.uint8), matrix.view(torch.uint8))
            assert torch.equal(after.pop(f"{name}_scale"), scale)
        else:
            assert torch.equal(after.pop(name), tensor)
    assert after == {}
    index = json.loads((converted / "transformer.safetensors.index.json").read_text())
    assert {shard.name for shard in shards(converted)} == set(index["weight_map"].values())
    assert len(shards(converted)) == 3


def test_what_was_converted_loads_as_what_it_stands_for(source: Path, converted: Path) -> None:
    whole = open_checkpoint(source).load_transformer().state_dict()
    checkpoint = open_checkpoint(converted)
    loaded = checkpoint.load_transformer().state_dict()
    assert loaded.keys() == whole.keys()
    for name in quantised_names(empty_module(checkpoint, "transformer")):
        assert torch.equal(loaded[name], dequantise(quantise(whole[name]), torch.float32))
        whole.pop(name)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in whole.items())
    half = checkpoint.load_transformer(dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in half.state_dict().values()} == {torch.bfloat16}


class Linear8(torch.nn.Module):
    """A map that holds eight bits, as those do that compute with them."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.dtype = linear.weight.dtype
        self.register_buffer("weight", linear.weight.detach().to(FP8))
        self.register_buffer("weight_scale", linear.weight.detach()[:, :1].float())
        self.bias = linear.bias


@pytest.mark.parametrize("stored_as", ["fp16", "fp8"])
def test_a_map_that_holds_eight_bits_gets_them_as_stored_or_made_of_what_is(
    source: Path, converted: Path, stored_as: str
) -> None:
    def prepare(transformer: LiveActTransformer) -> None:
        for layer in transformer.layers:
            layer.ffn[0] = Linear8(layer.ffn[0])

    folder = converted if stored_as == "fp8" else source
    loaded = open_checkpoint(folder).load_transformer(dtype=torch.bfloat16, prepare=prepare)
    stored = load_file(source / "transformer.safetensors")
    for index, layer in enumerate(loaded.layers):
        matrix, scale = quantise(stored[f"blocks.{index}.ffn.0.weight"])
        assert torch.equal(layer.ffn[0].weight.view(torch.uint8), matrix.view(torch.uint8))
        assert torch.equal(layer.ffn[0].weight_scale, scale)
        assert (layer.ffn[0].dtype, layer.ffn[2].weight.dtype) == (torch.bfloat16, torch.bfloat16)


def test_matrices_that_a_calibration_keeps_are_left_as_they_are(source: Path, tmp_path: Path) -> None:
    copy, out = Path(shutil.copytree(source, tmp_path / "copy")), tmp_path / "fp8"
    (copy / "fp8.json").write_text(json.dumps({"kept": ["blocks.0.ffn.2", "blocks.5.self_attn.q"]}))
    convert_fp8(copy, out, "tiny")
    (shard,) = shards(out)
    stored = load_file(shard)
    whole = {name for name, tensor in stored.items() if name.endswith("ffn.2.weight") and tensor.dtype != FP8}
    assert whole == {"blocks.0.ffn.2.weight"}
    assert "blocks.5.self_attn.q.weight_scale" not in stored
    assert (out / "fp8.json").is_file()
    (copy / "fp8.json").write_text("{}")
    with pytest.raises(WeightsError, match="kept"):
        convert_fp8(copy, tmp_path / "other", "tiny")


def test_the_converted_folder_is_whole_and_says_what_it_is(source: Path, converted: Path) -> None:
    verdict = verify(converted, "tiny")
    assert verdict.ok
    assert {file.found for file in verdict.files} == {"ok"}
    assert {file.path for file in verdict.files} == {str(p.relative_to(converted)) for p in converted.iterdir()} - {
        "weights.json"
    }
    manifest = Manifest.read(converted)
    assert manifest is not None
    assert "e4m3" in manifest.made
    assert inspect(open_checkpoint(converted))[0].dtypes[0] == "float8_e4m3fn"
    assert (converted / "vae.safetensors").samefile(source / "vae.safetensors"), "linked, not copied"


def test_a_converted_folder_is_not_converted_again(converted: Path, source: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        convert_fp8(converted, tmp_path / "again", "tiny")
    assert caught.value.reason == "ALREADY_FP8"
    with pytest.raises(WeightsError) as caught:
        convert_fp8(source, converted, "tiny")
    assert caught.value.reason == "TARGET_IN_USE"


def test_weights_of_another_size_are_refused(source: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    tensors = load_file(copy / "transformer.safetensors")
    tensors["blocks.1.ffn.0.weight"] = torch.zeros(3, 3)
    save_file(tensors, copy / "transformer.safetensors")
    with pytest.raises(CheckpointError, match=r"blocks\.1\.ffn\.0\.weight.*\[3, 3\], expected \[512, 192\]"):
        convert_fp8(copy, tmp_path / "fp8", "tiny")
    assert not (tmp_path / "fp8").exists()


@pytest.mark.slow
def test_a_killed_conversion_goes_on_where_it_was(source: Path, converted: Path, tmp_path: Path) -> None:
    killed = tmp_path / "fp8"
    code = (
        "import sys, time; from pathlib import Path; from liveact_models.weights.convert import convert_fp8\n"
        "def watch(doing, name, done, total):\n"
        "    if doing == 'converting' and '-00002-' in name and done > total / 2:\n"
        "        print('now', flush=True); time.sleep(600)\n"
        f"convert_fp8(Path(sys.argv[1]), Path(sys.argv[2]), 'tiny', shard_bytes={SMALL}, watch=watch)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(source), str(killed)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    (first,) = shards(killed)
    written = first.stat().st_mtime_ns
    assert (killed / STATE).is_file()
    with pytest.raises(CheckpointError):
        open_checkpoint(killed)

    other = Path(shutil.copytree(source, tmp_path / "other"))
    os.utime(other / "transformer.safetensors", (1, 1))
    with pytest.raises(WeightsError) as caught:
        convert_fp8(other, killed, "tiny", shard_bytes=SMALL)
    assert caught.value.reason == "TARGET_IN_USE", "the beginning of one is not mixed with the end of another"

    seen = set()
    convert_fp8(source, killed, "tiny", shard_bytes=SMALL, watch=lambda doing, name, *_: seen.add((doing, name)))
    assert first.stat().st_mtime_ns == written
    assert {name for doing, name in seen if doing == "converting"} == {shard.name for shard in shards(killed)[1:]}
    for shard in shards(converted):
        assert (killed / shard.name).read_bytes() == shard.read_bytes()
    assert not list(killed.glob(".*"))


def test_the_released_layout_is_converted_with_the_voice_that_lies_beside_it(tmp_path: Path) -> None:
    golden = Path(__file__).parent / "golden"
    folder, voice, out = tmp_path / "in" / "LiveAct", tmp_path / "in" / "wav2vec2-base", tmp_path / "out" / "fp8"
    folder.mkdir(parents=True)
    voice.mkdir()
    shutil.copy(golden / "dit.json", folder / "config.json")
    shutil.copy(golden / "dit.weights.safetensors", folder / "diffusion_pytorch_model.safetensors")
    shutil.copy(golden / "wav2vec2.weights.safetensors", voice / "model.safetensors")
    base = dataclasses.replace(sizes.PRESETS["tiny"], name="golden")
    convert_fp8(folder, out, base)
    assert (out / "wav2vec2-base" / "model.safetensors").is_file()
    first, second = (open_checkpoint(place, base).load_transformer() for place in (folder, out))
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.allclose(a, b, rtol=1 / 16, atol=float(a.abs().max()) / 400), name
