"""The small autoencoder: trained on whole clips, run latent frame by latent frame, and a decoder for the big model too."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from liveact_models.checkpoint import CheckpointError, open_checkpoint, save_checkpoint
from liveact_models.config import PRESETS, ConfigError, ModelConfig, TinyVaeConfig, VaeConfig
from liveact_models.pipeline import Pipeline
from liveact_models.session import StateError
from liveact_models.vae import StreamingVae, TinyVae, build_vae
from liveact_models.vae.tiny import fold, unfold
from liveact_services.config import load_config

SMALL = TinyVaeConfig(frame_dim=16, encoder_dim=32, decoder_dim=32)
MODEL = dataclasses.replace(PRESETS["tiny"], vae=SMALL)
FULL = dataclasses.replace(PRESETS["tiny"], vae=VaeConfig(dim=8, dim_mult=(1, 1, 2, 4), num_res_blocks=1))


@pytest.fixture(scope="module")
def vae() -> TinyVae:
    vae = open_checkpoint("untrained", MODEL).load_vae()
    vae.latent_norm.weight.uniform_(0.5, 2, generator=torch.Generator().manual_seed(1))
    vae.latent_norm.bias.uniform_(-1, 1, generator=torch.Generator().manual_seed(2))
    return vae


def clips(number: int, frames: int, height: int = 32, width: int = 48) -> torch.Tensor:
    return torch.rand(number, 3, frames, height, width, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_clips_are_coded_as_streams_are(vae):
    video = clips(3, 13)
    latents = vae.encode_clips(video)
    assert latents.shape == (3, 16, 4, 4, 6)
    frames = vae.decode_clips(latents)
    assert frames.shape == video.shape
    for clip, latent, frame in zip(video, latents, frames, strict=True):
        torch.testing.assert_close(vae.encode(clip), latent, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(vae.decode(latent), frame, atol=1e-4, rtol=1e-4)


def test_a_stream_begins_with_its_first_frame_repeated(vae):
    video = clips(1, 5)[0]
    led_in = torch.cat([video[:, :1]] * 4 + [video[:, :1], video[:, 1:]], dim=1)
    shown = vae.encode(led_in)  # the first frame, then a latent of four times the same, then the four that move
    assert torch.equal(shown[:, 0], vae.encode(video)[:, 0])
    assert not torch.allclose(shown[:, 1], shown[:, 0], atol=1e-3)  # it remembers


def test_no_latent_sees_a_later_frame(vae):
    video = clips(1, 13)
    changed = video.clone()
    changed[:, :, 5:] += 0.3
    before, after = vae.encode_clips(video)[0], vae.encode_clips(changed)[0]
    torch.testing.assert_close(before[:, :2], after[:, :2], atol=1e-5, rtol=1e-5)
    assert (before[:, 2] - after[:, 2]).abs().max() > 1e-2


def test_every_frame_of_a_latent_reaches_it_and_comes_from_it(vae):
    video = clips(1, 5).requires_grad_()
    latents = vae.encode_clips(video)
    latents[:, :, 1].square().sum().backward()
    assert (video.grad.abs().amax(dim=(0, 1, 3, 4)) > 0).all()
    frames = vae.decode_clips(torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(5)))[0, :, 1:]
    assert (frames[:, 1:] - frames[:, :-1]).abs().mean() > 0.02


def test_latents_are_bounded_then_standardised(vae):
    latents = vae.encode(clips(1, 5)[0] * 1e4)
    low, high = ((bound - vae.latent_norm.bias) / vae.latent_norm.weight for bound in (-3, 3))
    torch.testing.assert_close(latents.amax(dim=(1, 2, 3)), high)
    torch.testing.assert_close(latents.amin(dim=(1, 2, 3)), low)
    at_bound, beyond = (z.view(-1, 1, 1, 1).expand(-1, 1, 4, 4) for z in (high, high + 50))
    torch.testing.assert_close(vae.decode(beyond), vae.decode(at_bound))


@pytest.mark.parametrize(("time", "side"), [(1, 4), (4, 2)])
def test_unfolding_undoes_folding(time, side):
    x = torch.arange(2.0 * time * 3 * 5 * 8 * 12).view(2 * time * 3, 5, 8, 12)
    folded = fold(x, 3, time, side)
    assert folded.shape == (6, time * side * side * 5, 8 // side, 12 // side)
    assert folded.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(unfold(folded, 3, time, side), x)
    # Row 3 * t + clip holds that clip's frames and no other's.
    of_clip = {tuple(sorted({int(v) // (5 * 96) % 3 for v in row.flatten()})) for row in folded}
    assert of_clip == {(0,), (1,), (2,)}


def test_a_checkpoint_names_its_family(vae, tmp_path):
    save_checkpoint(tmp_path, {"vae": vae}, MODEL)
    opened = open_checkpoint(tmp_path)
    assert opened.config == MODEL
    latents = vae.encode(clips(1, 9)[0])
    for parts in ("both", "decode"):
        assert torch.equal(opened.load_vae(parts).decode(latents), vae.decode(latents))
    assert torch.equal(opened.load_vae("encode").encode(clips(1, 9)[0]), latents)
    assert isinstance(build_vae(FULL.vae), StreamingVae)
    unknown = MODEL.to_dict() | {"vae": {"family": "huge"}}
    with pytest.raises(ConfigError, match=r"model.vae: family 'huge' is unknown; accepted are wan, tiny"):
        ModelConfig.from_dict(unknown)


def test_a_tiny_decoder_stands_in_for_the_full_one(vae, tmp_path):
    save_checkpoint(tmp_path, {"vae": vae}, MODEL)
    checkpoint = open_checkpoint("untrained", FULL, tiny_vae=tmp_path)
    latents = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(4))
    assert torch.equal(checkpoint.load_vae("decode").decode(latents), vae.decode(latents))
    image = clips(1, 1)[0, :, 0]
    full = open_checkpoint("untrained", FULL)
    assert torch.equal(checkpoint.load_vae("encode").encode_reference(image), full.load_vae().encode_reference(image))
    assert ModelConfig.from_dict(checkpoint.config.to_dict()) == checkpoint.config
    assert load_config(checkpoint="untrained", tiny_vae_dir=str(tmp_path)).open_checkpoint().config.vae_decoder == SMALL

    performance = Pipeline(checkpoint).start(image[:, :, :32].numpy())
    small_frames = performance.next_block().frames
    full_pipeline = Pipeline(full)
    assert not (small_frames == full_pipeline.start(image[:, :, :32].numpy()).next_block().frames).all()
    with pytest.raises(StateError):  # a decoder's cache fits no other decoder
        full_pipeline.adopt(performance.export())


def test_a_decoder_of_other_latents_is_refused(tmp_path):
    other = dataclasses.replace(SMALL, z_dim=8)
    for config in (FULL, dataclasses.replace(MODEL, vae=other)):
        folder = tmp_path / config.vae.family
        save_checkpoint(folder, {"vae": build_vae(config.vae)}, config)
        with pytest.raises(CheckpointError, match="must be of family 'tiny' with 16"):
            open_checkpoint("untrained", FULL, tiny_vae=folder)
    with pytest.raises(CheckpointError, match="no such file"):
        open_checkpoint("untrained", FULL, tiny_vae=tmp_path / "nowhere")
