"""`liveact weights` and what `liveact doctor` says of a checkpoint: tables, the JSON line, exit codes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from hub_fixtures import COMMIT, HubState, hub_of
from liveact_models.checkpoint import open_checkpoint
from liveact_models.checkpoint.inspect import empty_module
from liveact_models.checkpoint.layouts import shipped_folder
from liveact_models.weights.convert import convert_fp8
from liveact_models.weights.manifest import MANIFEST, Manifest
from liveact_models.weights.releases import release
from liveact_models.weights.verify import preset_of
from liveact_services.cli import fit
from liveact_services.cli.check import Check
from liveact_services.cli.main import app
from liveact_services.config import ServiceConfig, load_config

MODEL, VOICE = (source.repo for source in release("soulx-liveact").sources)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("LIVEACT_", "HF_"))]:
        monkeypatch.delenv(name)


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def last_json(result: Result) -> dict[str, Any]:
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubState]:
    """Files of the released names, none of them weights of the released size."""
    names = [
        "config.json", "diffusion_pytorch_model.safetensors", "Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth",
        "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth", "google/umt5-xxl/tokenizer.json",
    ]  # fmt: skip
    model = {name: name.encode() for name in names} | {"config.json": b'{"dim": 64, "num_layers": 1, "num_heads": 4}'}
    with hub_of({MODEL: model, VOICE: {"pytorch_model.bin": b"voice"}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


def test_pull_says_what_it_does_and_does_it(hub: HubState, tmp_path: Path) -> None:
    folder = tmp_path / "liveact"
    planned = run("weights", "pull", "soulx-liveact", "--to", folder, "--dry-run", "--json")
    assert planned.exit_code == 0
    assert not folder.exists()
    assert (last_json(planned)["files"], last_json(planned)["complete"]) == (7, False)
    result = run("weights", "pull", "soulx-liveact", "--to", folder)
    assert result.exit_code == 0, result.stderr
    for words in (hub.endpoint, MODEL, COMMIT, "7, ", "without a token", f"weights verify {folder}"):
        assert words in " ".join(result.stdout.split()) or words in result.stdout.replace("\n", "")
    manifest = Manifest.read(folder)
    assert manifest is not None
    assert manifest.complete


def test_what_was_pulled_and_is_no_model_is_told_module_by_module(hub: HubState, tmp_path: Path) -> None:
    run("weights", "pull", "soulx-liveact", "--to", tmp_path)
    (tmp_path / "google/umt5-xxl/tokenizer.json").unlink()
    assert preset_of(tmp_path, "tiny") == "soulx-liveact-18b", "by the release that its manifest names"
    result = run("weights", "verify", tmp_path, "--preset", "tiny", "--json")
    assert result.exit_code == 1
    shown = json.loads(result.stdout.splitlines()[-1])
    assert {file["path"]: file["found"] for file in shown["files"]}["google/umt5-xxl/tokenizer.json"] == "missing"
    assert len(shown["files"]) == 7
    assert {module["name"]: module["error"] is not None for module in shown["modules"]} == {
        "transformer": True, "vae": True, "audio_encoder": True, "text_encoder": True, "image_encoder": True,
    }  # fmt: skip


@pytest.mark.parametrize(("status", "exit_code", "reason"), [(401, 3, "HUB_REFUSED"), (507, 4, "HUB_FAILED")])
def test_what_pull_meets_becomes_an_exit_code(
    hub: HubState, tmp_path: Path, status: int, exit_code: int, reason: str
) -> None:
    hub.status = status
    result = run("weights", "pull", "soulx-liveact", "--to", tmp_path, "--json")
    assert result.exit_code == exit_code
    assert last_json(result)["error"]["reason"] == reason


def test_pull_knows_what_it_does_not_know() -> None:
    result = run("weights", "pull", "other")
    assert (result.exit_code, "accepted are soulx-liveact" in result.stderr) == (3, True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped weights in eight bits, with a manifest."""
    folder = tmp_path_factory.mktemp("weights") / "fp8"
    convert_fp8(shipped_folder("tiny"), folder, "tiny")
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def test_verify_passes_what_is_whole(whole: Path) -> None:
    result = run("weights", "verify", whole)
    assert result.exit_code == 0, result.stdout
    assert "float8_e4m3fn" in run("weights", "show", whole, "--json").stdout


def test_verify_names_every_file_and_tensor_that_is_wrong(copy: Path) -> None:
    vae = (copy / "vae.safetensors").read_bytes()
    (copy / "vae.safetensors").write_bytes(vae[:-1] + bytes([vae[-1] ^ 1]))
    (copy / "tokenizer.json").unlink()
    with (copy / "liveact.json").open("a") as file:
        file.write(" ")
    tensors = load_file(copy / "image_encoder.safetensors")
    tensors.pop("pre_layrnorm.bias")
    tensors |= {"pre_layrnorm.weight": torch.zeros(7), "surplus": torch.zeros(2)}
    save_file(tensors, copy / "image_encoder.safetensors")
    (copy / "old.safetensors").write_bytes(b"")
    shown = run("weights", "verify", copy, "--json")
    assert shown.exit_code == 1
    result = json.loads(shown.stdout.splitlines()[-1])
    found = {file["path"]: file["found"] for file in result["files"]}
    assert found["vae.safetensors"] == "sha256"
    assert found["tokenizer.json"] == "missing"
    assert found["liveact.json"] == found["image_encoder.safetensors"] == "size"
    assert found["old.safetensors"] == "extra"
    assert found["audio_encoder.safetensors"] == "ok"
    misfits = {module["name"]: module["misfits"] for module in result["modules"]}
    assert {misfit["tensor"]: misfit["reason"] for misfit in misfits["image_encoder"]} == {
        "pre_layrnorm.bias": "TENSOR_MISSING", "pre_layrnorm.weight": "TENSOR_SHAPE", "surplus": "TENSOR_EXTRA",
    }  # fmt: skip
    assert misfits["transformer"] == []


def test_a_pull_that_has_not_ended_does_not_pass(copy: Path) -> None:
    manifest = Manifest.read(copy)
    assert manifest is not None
    manifest.complete = False
    manifest.write(copy)
    result = run("weights", "verify", copy)
    assert (result.exit_code, "has not ended" in result.stderr) == (1, True)
    (copy / MANIFEST).write_text("[]")
    assert run("weights", "verify", copy).exit_code == 3


def test_convert_needs_to_be_told_to_what(whole: Path) -> None:
    assert run("weights", "convert", whole).exit_code == 2


def test_show_lists_what_can_be_had() -> None:
    (known,) = last_json(run("weights", "show", "--json"))["releases"]
    assert known["preset"] == "soulx-liveact-18b"
    assert [source["repo"] for source in known["sources"]] == [MODEL, VOICE]


# ---- doctor


def checks(config: ServiceConfig) -> dict[str, Check]:
    return {check.name: check for check in fit.weights(config)}


def test_doctor_says_layout_size_precision_and_that_it_fits(whole: Path) -> None:
    found = checks(load_config(checkpoint=str(whole)))
    assert {name: check.found for name, check in found.items()} == {
        "checkpoint": "ok", "weights": "ok", "memory": "ok",
    }  # fmt: skip
    for words in ("liveact layout", "GiB stored", "transformer 5 M in float8_e4m3fn"):
        assert words in found["weights"].detail
    assert "room for" in found["memory"].detail


def test_doctor_names_a_tensor_that_does_not_fit(copy: Path) -> None:
    save_file({"a": torch.zeros(1)}, copy / "image_encoder.safetensors")
    check = checks(load_config(checkpoint=str(copy)))["weights of image_encoder"]
    assert check.found == "failed"
    assert str(copy / "image_encoder.safetensors") in check.detail
    assert "liveact weights verify" in check.fix


def test_a_need_counts_the_decoder_as_it_is_computed_and_nothing_twice() -> None:
    config, checkpoint = load_config(), open_checkpoint("shipped", "tiny")
    in_bf16 = load_config(vae_decoder={"precision": "bf16"})
    vaes = {parts: empty_module(checkpoint, "vae", parts).state_dict() for parts in ("encode", "decode")}
    held = {parts: sum(tensor.numel() for tensor in vae.values()) for parts, vae in vaes.items()}
    beside = [fit.need_of(c, checkpoint, c.denoiser, False).beside for c in (config, in_bf16)]
    assert beside[0] - beside[1] == 2 * held["decode"]
    modules = [empty_module(checkpoint, name) for name in ("text_encoder", "image_encoder", "audio_encoder")]
    rest = sum(tensor.numel() for module in modules for tensor in module.state_dict().values())
    assert beside[0] == 4 * (rest + held["encode"] + held["decode"])


@pytest.mark.slow
def test_a_need_is_told_for_the_released_size_on_a_gpu_and_less_of_it_with_layers_on_the_host() -> None:
    bf16 = {"num_gpus": 1, "precision": "bf16"}
    config = load_config(preset="soulx-liveact-18b", checkpoint="untrained", denoiser=bf16)
    checkpoint = open_checkpoint("untrained", "soulx-liveact-18b")
    need = fit.need_of(config, checkpoint, config.denoiser, True)
    assert 17e9 * 2 < need.transformer < 19e9 * 2
    assert need.session / 2 == pytest.approx(15.1e9, rel=0.01), "of model-facts, ConvKV memory"
    assert (need.beside, need.offloaded) == (0, 0)
    half = config.denoiser.model_copy(update={"offload_blocks": 20})
    less = fit.need_of(config, checkpoint, half, True)
    assert less.transformer < need.transformer * 0.6
    assert less.offloaded + less.transformer > need.transformer
    eight = config.denoiser.model_copy(update={"precision": "fp8"})
    assert fit.need_of(config, checkpoint, eight, True).transformer < need.transformer * 0.52
    (told,) = fit.fit(config, checkpoint)
    assert told.found in ("warning", "failed", "ok")
    if not torch.cuda.is_available():
        assert "no CUDA device is here" in told.detail
