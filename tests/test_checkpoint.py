"""Checkpoints: three layouts, one way to load, and a named error for everything that can be wrong with a file."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from liveact_models import config as sizes
from liveact_models.checkpoint import CheckpointError, open_checkpoint, save_checkpoint
from liveact_models.checkpoint.layouts import MODULES
from liveact_models.parity.golden import read_config, read_tensors

GOLDEN = Path(__file__).parent / "golden"
TINY = sizes.PRESETS["tiny"]
LOADERS = ("load_transformer", "load_vae", "load_audio_encoder", "load_text_encoder", "load_image_encoder")
VAE_FILE = "Wan2.1_VAE.pth"
TEXT_FILE = "models_t5_umt5-xxl-enc-bf16.pth"
IMAGE_FILE = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"


def reason(action) -> tuple[str, str]:
    with pytest.raises(CheckpointError) as caught:
        action()
    return caught.value.reason, str(caught.value)


# Untrained


@pytest.mark.parametrize("loader", LOADERS)
def test_untrained_modules_are_whole_and_always_the_same(loader):
    first, second = (getattr(open_checkpoint("untrained", "tiny"), loader)() for _ in range(2))
    assert not first.training
    assert not any(t.is_meta for t in [*first.parameters(), *first.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert all(p.isfinite().all() and p.dtype == torch.float32 for p in first.parameters())
    assert sum(float(p.detach().std(correction=0)) > 0 for p in first.parameters()) > 5


def test_untrained_weights_leave_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    open_checkpoint("untrained").load_text_encoder()
    assert torch.equal(torch.rand(1), expected)


def test_untrained_memory_starts_as_the_mean():
    weights = open_checkpoint("untrained").load_transformer().state_dict()
    memory = {name: tensor for name, tensor in weights.items() if "memory_proj" in name}
    assert len(memory) == 2 * TINY.transformer.num_layers
    assert all(torch.equal(tensor, torch.full_like(tensor, 0.2)) for tensor in memory.values())


@pytest.mark.slow
def test_another_process_has_the_same_untrained_weights():
    code = (
        "from liveact_models.checkpoint import open_checkpoint\n"
        "print(sum(float(p.detach().double().sum()) for p in open_checkpoint('untrained').load_image_encoder().parameters()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    ours = sum(float(p.detach().double().sum()) for p in open_checkpoint("untrained").load_image_encoder().parameters())
    assert float(done.stdout) == ours


def test_modules_come_in_the_type_asked_for():
    encoder = open_checkpoint("untrained").load_image_encoder(dtype=torch.bfloat16)
    assert all(p.dtype == torch.bfloat16 for p in encoder.parameters())
    assert encoder.encode(torch.zeros(3, 32, 32)).isfinite().all()


# Our own layout


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    untrained = open_checkpoint("untrained", TINY)
    modules = {name: getattr(untrained, f"load_{name}")() for name in MODULES}
    folder = tmp_path_factory.mktemp("own") / "checkpoint"
    save_checkpoint(folder, modules, untrained.config)
    return folder


@pytest.fixture
def own_copy(own, tmp_path) -> Path:
    return Path(shutil.copytree(own, tmp_path / "copy"))


def test_a_saved_checkpoint_comes_back(own):
    checkpoint, untrained = open_checkpoint(own), open_checkpoint("untrained", TINY)
    assert checkpoint.config == untrained.config
    assert checkpoint.trained
    assert not untrained.trained
    assert str(own) in checkpoint.describe()
    for loader in LOADERS:
        ours, expected = getattr(checkpoint, loader)().state_dict(), getattr(untrained, loader)().state_dict()
        assert ours.keys() == expected.keys()
        assert all(torch.equal(ours[name], expected[name]) for name in ours)


def test_half_a_vae_loads_alone_and_is_not_saved(own, tmp_path):
    decoder = open_checkpoint(own).load_vae("decode")
    assert not any(name.startswith("encoder.") for name in decoder.state_dict())
    with pytest.raises(ValueError, match="one direction"):
        save_checkpoint(tmp_path / "half", {"vae": decoder}, TINY)
    with pytest.raises(ValueError, match="'unet'"):
        save_checkpoint(tmp_path / "half", {"unet": decoder}, TINY)


def edited(folder: Path, name: str, edit) -> None:
    tensors = load_file(folder / name)
    edit(tensors)
    save_file(tensors, folder / name)


NORM = "pre_layrnorm.weight"


@pytest.mark.parametrize(
    ("expected", "words", "edit"),
    [
        ("TENSOR_MISSING", ["[64]", NORM], lambda t: t.pop(NORM)),
        ("TENSOR_EXTRA", ["[3]", "surplus"], lambda t: t.update(surplus=torch.zeros(3))),
        ("TENSOR_SHAPE", ["[64]", "[7]", NORM], lambda t: t.update({NORM: torch.zeros(7)})),
    ],
)
def test_a_wrong_tensor_is_named_with_its_file_and_shapes(own_copy, expected, words, edit):
    edited(own_copy, "image_encoder.safetensors", edit)
    found, message = reason(open_checkpoint(own_copy).load_image_encoder)
    assert found == expected
    assert all(word in message for word in [*words, str(own_copy / "image_encoder.safetensors")])


def test_a_tensor_of_neither_direction_of_the_vae_is_extra(own_copy):
    edited(own_copy, "vae.safetensors", lambda t: t.update({"decoder.more": torch.zeros(1)}))
    assert reason(lambda: open_checkpoint(own_copy).load_vae("encode"))[0] == "TENSOR_EXTRA"


@pytest.mark.parametrize("kept", [0.99, 0.001, 0.0])
def test_a_file_cut_off_is_named(own_copy, kept):
    path = own_copy / "image_encoder.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    found, message = reason(open_checkpoint(own_copy).load_image_encoder)
    assert found == "FILE_TRUNCATED"
    assert str(path) in message
    assert "again" in message


def test_a_file_of_something_else_is_named(own_copy):
    path = own_copy / "image_encoder.safetensors"
    path.write_bytes((9).to_bytes(8, "little") + b"not JSON." * 9)
    assert reason(open_checkpoint(own_copy).load_image_encoder)[0] == "FILE_UNREADABLE"
    path.unlink()
    found, message = reason(open_checkpoint(own_copy).load_image_encoder)
    assert found == "CHECKPOINT_NOT_FOUND"
    assert str(path) in message


def test_a_folder_of_no_known_layout_is_named(tmp_path, own_copy):
    assert reason(lambda: open_checkpoint(tmp_path / "nowhere"))[0] == "CHECKPOINT_NOT_FOUND"
    empty = tmp_path / "empty"
    empty.mkdir()
    found, message = reason(lambda: open_checkpoint(empty))
    assert found == "CHECKPOINT_LAYOUT_UNKNOWN"
    assert "liveact.json" in message
    assert "config.json" in message
    manifest = json.loads((own_copy / "liveact.json").read_text())
    for change, expected in [
        ({"version": 2}, "CHECKPOINT_LAYOUT_UNKNOWN"),
        ({"format": "other"}, "CHECKPOINT_LAYOUT_UNKNOWN"),
        ({"config": {"name": "x", "depth": 3}}, "FILE_UNREADABLE"),
    ]:
        (own_copy / "liveact.json").write_text(json.dumps(manifest | change))
        assert reason(lambda: open_checkpoint(own_copy))[0] == expected
    (own_copy / "liveact.json").write_text('{"format"')
    assert reason(lambda: open_checkpoint(own_copy))[0] == "FILE_UNREADABLE"
    with pytest.raises(sizes.ConfigError, match="soulx-liveact-18b"):
        open_checkpoint("untrained", "huge")


# The released layout, made small from the golden weights


@pytest.fixture(scope="module")
def base() -> sizes.ModelConfig:
    return dataclasses.replace(
        TINY,
        name="golden",
        vae=read_config(GOLDEN, "vae", sizes.VaeConfig),
        audio_encoder=read_config(GOLDEN, "wav2vec2", sizes.AudioEncoderConfig),
        text_encoder=read_config(GOLDEN, "t5", sizes.TextEncoderConfig, tokenizer="bytes"),
        image_encoder=read_config(GOLDEN, "clip", sizes.ImageEncoderConfig),
    )


@pytest.fixture
def released(tmp_path) -> Path:
    """Files named, sharded and prefixed as released; the wav2vec2 folder stands beside."""
    folder = tmp_path / "SoulX-LiveAct"
    folder.mkdir()
    shutil.copy(GOLDEN / "dit.json", folder / "config.json")
    stem = "diffusion_pytorch_model"
    weights = read_tensors(GOLDEN, "dit.weights")
    halves = sorted(weights)[::2], sorted(weights)[1::2]
    shard_of = {}
    for number, half in enumerate(halves, 1):
        shard = f"{stem}-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in half}, folder / shard)
        shard_of |= dict.fromkeys(half, shard)
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shard_of}))

    torch.save(read_tensors(GOLDEN, "vae.weights"), folder / VAE_FILE)
    torch.save(read_tensors(GOLDEN, "t5.weights"), folder / TEXT_FILE)
    clip = {f"visual.{name}": tensor for name, tensor in read_tensors(GOLDEN, "clip.weights").items()}
    torch.save(clip | {"log_scale": torch.zeros(()), "textual.norm.weight": torch.ones(3)}, folder / IMAGE_FILE)

    audio = tmp_path / "chinese-wav2vec2-base"
    audio.mkdir()
    bare = read_tensors(GOLDEN, "wav2vec2.weights")
    weight_norm = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    for new, old in weight_norm.items():
        name = f"encoder.pos_conv_embed.conv.{new}"
        bare[name.replace(new, old)] = bare.pop(name)
    pretraining = {"quantizer.codevectors": torch.zeros(2), "project_q.bias": torch.zeros(2)}
    torch.save({f"wav2vec2.{name}": t for name, t in bare.items()} | pretraining, audio / "pytorch_model.bin")
    return folder


def test_the_released_layout_gives_what_the_official_code_gives(released, base):
    checkpoint = open_checkpoint(released, base)
    assert checkpoint.kind == "released"
    assert checkpoint.config.transformer == sizes.transformer_config_from_json(GOLDEN / "dit.json")

    transformer = checkpoint.load_transformer().state_dict()
    golden = read_tensors(GOLDEN, "dit.weights")
    assert transformer.keys() == golden.keys()
    assert all(torch.equal(transformer[name], golden[name]) for name in golden)

    io = {name: read_tensors(GOLDEN, f"{name}.io") for name in ("vae", "t5", "clip", "wav2vec2")}
    decoded = checkpoint.load_vae("decode").decode(io["vae"]["latent"][0])
    assert torch.allclose(decoded, io["vae"]["decoded"][0], atol=1e-4)
    ids = io["t5"]["ids"][0][io["t5"]["mask"][0].bool()]
    text = checkpoint.load_text_encoder().encode_tokens(ids)
    assert torch.allclose(text, io["t5"]["output"][0, : len(ids)], atol=1e-4)
    clip = checkpoint.load_image_encoder().encode_pixels(io["clip"]["pixels"])
    assert torch.allclose(clip, io["clip"]["output"], atol=1e-4)
    audio = checkpoint.load_audio_encoder().encode(io["wav2vec2"]["normalized"], 50)
    assert torch.allclose(audio, io["wav2vec2"]["embedding"], atol=1e-4)


def test_wav2vec2_is_found_where_it_is_said_to_be(released, base, tmp_path):
    beside = tmp_path / "chinese-wav2vec2-base"
    elsewhere = tmp_path / "elsewhere" / "audio"
    shutil.copytree(beside, elsewhere)
    shutil.copytree(beside, released / "wav2vec2-base-960h")
    found, message = reason(open_checkpoint(released, base).load_audio_encoder)
    assert found == "CHECKPOINT_NOT_FOUND"  # two of them
    assert "chinese-wav2vec2-base" in message
    open_checkpoint(released, base, audio_encoder=elsewhere).load_audio_encoder()
    shutil.rmtree(beside)
    shutil.rmtree(released / "wav2vec2-base-960h")
    assert "found none" in reason(open_checkpoint(released, base).load_audio_encoder)[1]


def test_new_names_of_weight_norm_and_safetensors_are_read_too(released, base, tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    save_file(read_tensors(GOLDEN, "wav2vec2.weights"), folder / "model.safetensors")
    new = open_checkpoint(released, base, audio_encoder=folder).load_audio_encoder().state_dict()
    old = open_checkpoint(released, base).load_audio_encoder().state_dict()
    assert all(torch.equal(new[name], old[name]) for name in old)


@pytest.mark.parametrize(
    ("file", "loader"),
    [(VAE_FILE, "load_vae"), (TEXT_FILE, "load_text_encoder"), (IMAGE_FILE, "load_image_encoder")],
)
def test_a_damaged_released_file_is_named(released, base, file, loader):
    checkpoint, path = open_checkpoint(released, base), released / file
    whole = path.read_bytes()
    for content, expected in [
        (whole[: len(whole) // 2], "FILE_TRUNCATED"),
        (b"<html>not found</html>", "FILE_UNREADABLE"),
        (None, "CHECKPOINT_NOT_FOUND"),
    ]:
        path.unlink() if content is None else path.write_bytes(content)
        found, message = reason(getattr(checkpoint, loader))
        assert found == expected
        assert str(path) in message


def test_a_pickle_of_more_than_tensors_is_not_opened(released, base):
    torch.save({"a": Path("x")}, released / VAE_FILE)
    assert reason(open_checkpoint(released, base).load_vae)[0] == "FILE_UNREADABLE"
    torch.save({"epoch": 3}, released / VAE_FILE)
    assert reason(open_checkpoint(released, base).load_vae)[0] == "FILE_UNREADABLE"


def test_wrong_released_tensors_are_named(released, base):
    weights = read_tensors(GOLDEN, "t5.weights")
    norm = weights.pop("norm.weight")
    checkpoint = open_checkpoint(released, base)
    torch.save(weights, released / TEXT_FILE)
    assert reason(checkpoint.load_text_encoder)[0] == "TENSOR_MISSING"
    torch.save(weights | {"norm.weight": norm[:5]}, released / TEXT_FILE)
    assert reason(checkpoint.load_text_encoder)[0] == "TENSOR_SHAPE"
    torch.save(weights | {"norm.weight": norm, "blocks.0.surprise": norm}, released / TEXT_FILE)
    assert reason(checkpoint.load_text_encoder)[0] == "TENSOR_EXTRA"


def test_a_shard_that_lacks_what_the_index_promises_is_named(released, base):
    shard = next(released.glob("*-00002-of-00002.safetensors"))
    tensors = load_file(shard)
    name = sorted(tensors)[0]
    del tensors[name]
    save_file(tensors, shard)
    found, message = reason(open_checkpoint(released, base).load_transformer)
    assert found == "TENSOR_MISSING"
    assert name in message
    assert shard.name in message
    shard.unlink()
    assert reason(open_checkpoint(released, base).load_transformer)[0] == "CHECKPOINT_NOT_FOUND"


def test_a_missing_tokenizer_is_named(released, base):
    words = dataclasses.replace(base, text_encoder=dataclasses.replace(base.text_encoder, tokenizer="umt5"))
    found, message = reason(open_checkpoint(released, words).load_text_encoder)
    assert found == "CHECKPOINT_NOT_FOUND"
    assert "umt5-xxl" in message


def test_a_config_json_that_is_none_is_named(released, base):
    (released / "config.json").write_text("{}")
    found, message = reason(lambda: open_checkpoint(released, base))
    assert found == "FILE_UNREADABLE"
    assert "'dim'" in message


def test_the_released_size_builds_with_the_released_names():
    """On the meta device: 18 billion parameters in all, without their storage."""
    from liveact_models.encoders import AudioEncoder, ImageEncoder, TextEncoder
    from liveact_models.transformer.model import LiveActTransformer
    from liveact_models.vae import StreamingVae

    full = sizes.PRESETS["soulx-liveact-18b"]
    with torch.device("meta"):
        counts = {
            "transformer": LiveActTransformer(full.transformer),
            "vae": StreamingVae(full.vae),
            "audio": AudioEncoder(full.audio_encoder),
            "text": TextEncoder(full.text_encoder, None),
            "image": ImageEncoder(full.image_encoder),
        }
    billions = {name: sum(p.numel() for p in module.parameters()) / 1e9 for name, module in counts.items()}
    assert 17 < billions["transformer"] < 19
    assert billions["vae"] == pytest.approx(0.127, abs=0.001)
    assert billions["audio"] == pytest.approx(0.0944, abs=0.001)
    assert billions["text"] == pytest.approx(5.68, abs=0.02)
    assert billions["image"] == pytest.approx(0.611, abs=0.01)
    assert counts["image"].embeddings.num_positions == 257
