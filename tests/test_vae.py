"""Either VAE streams: by block or whole, here or in another process, the bits are the same."""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from liveact_models.checkpoint import open_checkpoint
from liveact_models.config import PRESETS, ModelConfig, TinyVaeConfig, VaeConfig
from liveact_models.vae import CacheError, DecoderCache, DecoderEngine, Vae, build_vae, kernels, load_decoder, to_rgb

TINY = TinyVaeConfig(frame_dim=16, encoder_dim=32, decoder_dim=32)
FAMILIES = {
    config.family: dataclasses.replace(PRESETS["tiny"], vae=config)
    for config in (VaeConfig(dim=8, dim_mult=(1, 1, 2, 4), num_res_blocks=1), TINY)
}
LATENTS = torch.randn(16, 14, 4, 4, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module", params=FAMILIES.values(), ids=FAMILIES)
def model(request) -> ModelConfig:
    return request.param


@pytest.fixture(scope="module")
def vae(model) -> Vae:
    return open_checkpoint("untrained", model).load_vae()


@pytest.fixture(scope="module")
def whole(vae) -> torch.Tensor:
    return vae.decode(LATENTS)


@pytest.mark.parametrize("blocks", [(6, 8), (1, 1, 12), (1,) * 14])
def test_decoding_by_block_gives_the_bits_of_decoding_the_whole(vae, whole, blocks):
    cache = vae.new_cache()
    frames = [f for block in LATENTS.split(blocks, dim=1) for f in vae.decode_stream(block, cache)]
    assert [f.shape[1] for f in frames] == [1] + [4] * 13
    assert torch.equal(torch.cat(frames, dim=1), whole)


def test_the_cache_matters(vae, whole):
    """Without it the second block is other frames: what the tests above compare is not trivial."""
    fresh = vae.decode(LATENTS[:, 6:])
    assert not torch.allclose(fresh[:, 1:], whole[:, -28:], atol=1e-2)


@pytest.mark.parametrize("decoded", [0, 1, 2, 6])
def test_a_cache_exported_anywhere_goes_on_with_the_same_bits(vae, decoded):
    cache = vae.new_cache()
    list(vae.decode_stream(LATENTS[:, :decoded], cache))
    tensors = cache.tensors()
    rest = torch.cat(list(vae.decode_stream(LATENTS[:, decoded:], cache)), dim=1)
    adopted = DecoderCache.from_tensors(tensors)
    assert adopted.tensors().keys() == tensors.keys()
    assert torch.equal(torch.cat(list(vae.decode_stream(LATENTS[:, decoded:], adopted)), dim=1), rest)


def test_an_export_is_not_moved_by_later_frames(vae):
    cache = vae.new_cache()
    list(vae.decode_stream(LATENTS[:, :3], cache))
    tensors = cache.tensors()
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    list(vae.decode_stream(LATENTS[:, 3:6], cache))
    assert all(torch.equal(tensors[name], before[name]) for name in before)


@pytest.mark.slow
def test_another_process_adopts_the_cache(model, vae, tmp_path):
    cache = vae.new_cache()
    list(vae.decode_stream(LATENTS[:, :6], cache))
    save_file({**cache.tensors(), "latents": LATENTS[:, 6:8].contiguous()}, tmp_path / "cache.safetensors")
    script = (
        "import json, sys, torch\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "from safetensors.torch import load_file, save_file\n"
        "from liveact_models.checkpoint import open_checkpoint\n"
        "from liveact_models.config import ModelConfig\n"
        "from liveact_models.vae import DecoderCache\n"
        "tensors = load_file(sys.argv[1] + '/cache.safetensors')\n"
        "latents = tensors.pop('latents')\n"
        "model = ModelConfig.from_dict(json.loads(sys.argv[2]))\n"
        "vae = open_checkpoint('untrained', model).load_vae('decode')\n"
        "frames = torch.cat(list(vae.decode_stream(latents, DecoderCache.from_tensors(tensors))), dim=1)\n"
        "save_file({'frames': frames}, sys.argv[1] + '/frames.safetensors')\n"
    )
    arguments = [str(tmp_path), json.dumps(model.to_dict())]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, timeout=120)
    ours = torch.cat(list(vae.decode_stream(LATENTS[:, 6:8], cache)), dim=1)
    assert torch.equal(load_file(tmp_path / "frames.safetensors")["frames"], ours)


def test_a_damaged_cache_is_named(vae):
    cache = vae.new_cache()
    list(vae.decode_stream(LATENTS[:, :2], cache))
    tensors = cache.tensors()
    slot = next(name for name in tensors if name.startswith("slot."))
    for damaged, named in [
        ({k: v for k, v in tensors.items() if k != "kinds"}, "kinds"),
        ({k: v for k, v in tensors.items() if k != slot}, slot),
        ({**tensors, "slot.999": tensors[slot]}, "slot.999"),
        ({**tensors, "kinds": tensors["kinds"] + 5}, "kind 6"),
    ]:
        with pytest.raises(CacheError, match=named):
            DecoderCache.from_tensors(damaged)


def test_the_reference_is_the_portrait_then_nothing(vae):
    image = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = vae.encode_reference(image)
    assert latents.shape == (16, 14, 4, 6)
    video = torch.zeros(3, 53, 32, 48)
    video[:, 0] = image
    assert torch.equal(latents, vae.encode(video))
    assert torch.equal(latents[:, :1], vae.encode(image[:, None]))
    assert not torch.allclose(latents[:, 1], vae.encode(torch.zeros(3, 53, 32, 48))[:, 1], atol=1e-3)


@pytest.mark.parametrize("shape", [(3, 4, 32, 32), (3, 5, 30, 32)])
def test_a_video_that_does_not_fit_the_strides_is_refused(vae, shape):
    with pytest.raises(ValueError, match="multiples of 8" if shape[1] == 5 else "1 \\+ 4n"):
        vae.encode(torch.zeros(shape))


def test_each_direction_is_built_alone(model, vae):
    checkpoint = open_checkpoint("untrained", model)
    decoder, encoder = checkpoint.load_vae("decode"), checkpoint.load_vae("encode")
    assert not hasattr(decoder, "encoder")
    assert not hasattr(encoder, "decoder")
    assert torch.equal(decoder.decode(LATENTS[:, :2]), vae.decode(LATENTS[:, :2]))
    image = torch.zeros(3, 32, 32)
    assert torch.equal(encoder.encode(image[:, None]), vae.encode(image[:, None]))
    with pytest.raises(ValueError, match="decode"):
        build_vae(model.vae, "halfway")


def test_untrained_frames_are_lively(whole):
    assert whole.isfinite().all()
    assert 0.05 < whole.std() < 5
    assert (whole[:, 1:] - whole[:, :-1]).std() > 0.02


@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 1, 1)])
def test_the_faster_kernels_compute_what_the_library_computes(stride):
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanRMS_norm

    torch.manual_seed(0)
    library = torch.nn.Sequential(WanRMS_norm(8, images=False), WanCausalConv3d(8, 6, 3, stride=stride, padding=1))
    ours = copy.deepcopy(library)
    kernels.put_on(ours)
    assert ours.state_dict().keys() == library.state_dict().keys()
    assert not any(type(part) in (WanRMS_norm, WanCausalConv3d) for part in ours)
    results = []
    for model in (library, ours):
        x = torch.randn(1, 8, 4, 12, 10, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y = model(x)
        y.square().sum().backward()
        results.append((y, x.grad, model[1].weight.grad))
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(*results, strict=True))
    assert ours(torch.zeros(1, 8, 1, 4, 4)).isfinite().all()


def test_to_rgb_clamps_and_puts_colours_last():
    frames = torch.tensor([-3.0, -1.0, 0.0, 1.0, 9.0]).view(1, 5, 1, 1).expand(3, 5, 2, 4)
    pictures = to_rgb(frames)
    assert pictures.shape == (5, 2, 4, 3)
    assert pictures.dtype == torch.uint8
    assert pictures[:, 0, 0, 0].tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(
    ("engine", "off_by"),
    [
        (DecoderEngine(channels_last=True), 1e-5), (DecoderEngine(compile=True), 1e-5), (DecoderEngine("bf16"), 0.03),
        (DecoderEngine("bf16", channels_last=True, compile=True), 0.03),
    ],
    ids=["channels last", "compiled", "bf16", "all"],
)  # fmt: skip
def test_a_decoder_computed_another_way_gives_the_same_video_and_streams_to_the_bit(
    model: ModelConfig, engine: DecoderEngine, off_by: float
) -> None:
    checkpoint = open_checkpoint("untrained", model)
    plain, other = load_decoder(checkpoint, DecoderEngine(), "cpu"), load_decoder(checkpoint, engine, "cpu")
    video, whole = plain.decode(LATENTS), other.decode(LATENTS)
    assert (whole.float() - video).norm() / video.norm() <= off_by
    # By block, with the cache exported and adopted in between.
    cache, parts = other.new_cache(), []
    for latents in LATENTS.split(5, dim=1):
        parts += list(other.decode_stream(latents, cache))
        cache = DecoderCache.from_tensors(cache.tensors())
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_a_cache_goes_on_in_a_decoder_that_computes_another_way(model: ModelConfig) -> None:
    """As when a service is redeployed with another precision under live sessions."""
    checkpoint = open_checkpoint("untrained", model)
    plain, other = (
        load_decoder(checkpoint, engine, "cpu") for engine in (DecoderEngine(), DecoderEngine("bf16", True))
    )
    expected, first, rest = plain.decode(LATENTS), *LATENTS.split([6, 8], dim=1)
    for before, after in ((plain, other), (other, plain)):
        cache = before.new_cache()
        parts = list(before.decode_stream(first, cache))
        cache = DecoderCache.from_tensors(cache.tensors())
        parts += list(after.decode_stream(rest, cache))
        video = torch.cat([part.float() for part in parts], dim=1)
        assert (video - expected).norm() / expected.norm() <= 0.03
